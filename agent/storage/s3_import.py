"""Importing the S3 client at a price that a short command can pay.

aiohttp reads all certificates of the machine twice while it is imported, for connections that are given no TLS context
of their own. Every connection here is given one (`s3_client`), and that is a fifth of what the import takes.
"""

from __future__ import annotations

import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agent.base.read_ahead import read_s3_client

if TYPE_CHECKING:
    from agent.storage.s3 import S3Storage

_importing = threading.Lock()
"""Two that open buckets at once must not both change what TLS contexts load, and change it back."""


def read_ahead() -> None:
    """Have the disk begin with what `s3_storage` will import, unless that was imported before."""
    if "aiohttp" not in sys.modules:
        read_s3_client()


def s3_storage() -> type[S3Storage]:
    """The class, imported now. Takes a third of a second: for a thread."""
    with _importing:
        if "aiohttp" not in sys.modules:
            with _no_certificates():
                import aiohttp  # noqa: F401, PLC0415
    from agent.storage.s3 import S3Storage  # noqa: PLC0415

    return S3Storage


@contextmanager
def _no_certificates() -> Iterator[None]:
    """TLS contexts that this thread makes meanwhile trust nobody until they are told whom; those of others do."""
    importer = threading.get_ident()

    def load(context: ssl.SSLContext) -> None:
        if threading.get_ident() != importer:
            super(ssl.SSLContext, context).set_default_verify_paths()

    ssl.SSLContext.set_default_verify_paths = load  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        del ssl.SSLContext.set_default_verify_paths  # what it inherits is in force again
