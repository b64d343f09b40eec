"""Ground floor: errors, clocks, times. Imports nothing of ours; everybody may import it."""
