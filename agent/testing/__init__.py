"""Fakes and conformance suites for users of the library and for its own tests.

In-memory and fault-injecting storage, a virtual clock, the `BlobStorage` conformance suite.
"""
