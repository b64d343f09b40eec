"""What lies in a volume: file trees with their metadata, block devices, holes; a read side and a write side.

Nothing here knows of snapshots, repositories or Kubernetes.
"""
