"""Modules into the page cache before they are imported.

A command that starts cold waits for hundreds of small files, one after the other. A disk reads many of them at once in
the same time, so threads of their own ask for all that a command is known to import, long before its turn comes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from agent import _native

_THREADS = 16
_STANDARD = (
    "",
    "asyncio",
    "collections",
    "concurrent",
    "concurrent/futures",
    "email",
    "html",
    "http",
    "importlib",
    "importlib/metadata",
    "importlib/resources",
    "json",
    "lib-dynload",
    "logging",
    "re",
    "urllib",
    "xml/etree",
)
_AGENT = ("", "base", "cli", "repository", "snapshots", "storage", "volumes")
_COMMAND = (
    "",
    "backports/zstd",
    "blake3",
    "click",
    "cryptography",
    "cryptography/hazmat/bindings",
    "cryptography/hazmat/decrepit/ciphers",
    "cryptography/hazmat/primitives",
    "cryptography/hazmat/primitives/ciphers",
    "cryptography/hazmat/primitives/kdf",
    "msgspec",
    "pyzstd",
    "tenacity",
    "tenacity/asyncio",
)
_S3_CLIENT = (
    "aiobotocore",
    "aiobotocore/retries",
    "aiohappyeyeballs",
    "aiohttp",
    "aiohttp/_websocket",
    "aioitertools",
    "aiosignal",
    "attr",
    "botocore",
    "botocore/data",
    "botocore/data/s3/2006-03-01",
    "botocore/docs",
    "botocore/docs/bcdoc",
    "botocore/retries",
    "botocore/vendored/requests/packages/urllib3",
    "certifi",
    "dateutil",
    "dateutil/parser",
    "dateutil/tz",
    "frozenlist",
    "idna",
    "jmespath",
    "multidict",
    "propcache",
    "urllib3",
    "urllib3/contrib",
    "urllib3/http2",
    "urllib3/util",
    "uvloop",
    "uvloop/includes",
    "wrapt",
    "yarl",
)


def read_command() -> None:
    """What every command on repositories imports."""
    own = os.path.dirname(os.path.dirname(__file__))
    _read([*_below([os.path.dirname(os.__file__)], _STANDARD), *_below([own], _AGENT), *_below(_sites(), _COMMAND)])


def read_s3_client() -> None:
    """What a bucket takes in addition."""
    _read(_below(_sites(), _S3_CLIENT))


def _sites() -> list[str]:
    """Where installed packages are."""
    return [path for path in sys.path if path.endswith("-packages")]


def _below(roots: Sequence[str], folders: Sequence[str]) -> list[str]:
    return [os.path.join(root, folder) for root in roots for folder in folders]


def _read(folders: Sequence[str]) -> None:
    _native.read_ahead([os.fsencode(folder) for folder in folders], _THREADS)
