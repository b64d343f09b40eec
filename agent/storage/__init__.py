"""Blobs in a bucket: the `BlobStorage` contract, its providers and the wrappers that stack on it.

Here lives everything that knows of object stores and folders. Nothing here knows what a blob means.
"""
