"""Kopia's repository format: objects over contents over packs over indexes over epochs, and manifests.

Reads and writes format versions 1 to 3 beside other clients and their maintenance. Knows storage only through
`agent.storage.base.BlobStorage`; knows nothing of file trees or snapshots.
"""
