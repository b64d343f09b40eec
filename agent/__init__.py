"""Lighterage: moves volume data to object storage and back, in Kopia's own repository format."""

__version__ = "0.1.0"
