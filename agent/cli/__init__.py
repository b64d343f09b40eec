"""The `lighter` command: parse, call, print. No logic lives here."""
