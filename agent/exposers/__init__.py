"""From an object to a path or device that a worker can open, and back to nothing left behind.

Here: the Kubernetes objects around a volume (snapshots, claims, volumes, pods), made, watched and removed. Not here:
the data itself (`movers`), and any decision about the phase of an object (`controllers`, the only caller).
"""
