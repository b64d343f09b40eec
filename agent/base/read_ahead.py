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
_STANDARD = ("", "collections", "re", "importlib", "concurrent", "concurrent/futures", "asyncio", "urllib", "logging")
_STANDARD_LATER = (
    "json",
    "email",
    "html",
    "http",
    "importlib/metadata",
    "importlib/resources",
    "xml/etree",
    "lib-dynload",
)
_AGENT = ("", "base", "cli", "storage", "repository", "snapshots", "volumes")
_COMMAND = ("", "click", "msgspec", "tenacity", "tenacity/asyncio")
_COMMAND_LATER = (
    "backports/zstd",
    "blake3",
    "cryptography",
    "cryptography/hazmat/bindings",
    "cryptography/hazmat/decrepit/ciphers",
    "cryptography/hazmat/primitives",
    "cryptography/hazmat/primitives/ciphers",
    "cryptography/hazmat/primitives/kdf",
    "pyzstd",
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
    """What every command on repositories imports, about in that order."""
    standard, sites, own = [os.path.dirname(os.__file__)], _sites(), [os.path.dirname(os.path.dirname(__file__))]
    soon = [*_below(standard, _STANDARD), *_below(sites, _COMMAND), *_below(own, _AGENT)]
    _read([*soon, *_below(standard, _STANDARD_LATER), *_below(sites, _COMMAND_LATER)])


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
