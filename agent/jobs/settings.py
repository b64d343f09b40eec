"""What a user asked of the uploader: `dataMoverConfig` and `uploaderSettings` of the four kinds (contract §7.2).

Keys that nobody knows are ignored, as the stock agent does. A value that makes no sense is too, with a warning: a
backup without a wish is worth more than none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from agent.movers.spec import MAX_PARALLEL

_COUNT = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"", "0", "f", "F", "FALSE", "false", "False"})


class Settings(msgspec.Struct, frozen=True):
    """The wishes that were understood."""

    parallel: int = 0
    """Threads; 0: none were asked for."""
    sparse: bool = False
    warnings: tuple[str, ...] = ()


def upload_settings(wishes: Mapping[str, str]) -> Settings:
    """Of a backup: `ParallelFilesUpload`."""
    parallel, warnings = _parallel("ParallelFilesUpload", wishes)
    return Settings(parallel, False, warnings)


def download_settings(wishes: Mapping[str, str]) -> Settings:
    """Of a restore: `ParallelFilesDownload`, `WriteSparseFiles`."""
    parallel, warnings = _parallel("ParallelFilesDownload", wishes)
    sparse = wishes.get("WriteSparseFiles", "").strip()
    if sparse not in _TRUE | _FALSE:
        warnings = (*warnings, f"WriteSparseFiles is ignored: {sparse[:64]!a} is neither true nor false")
    return Settings(parallel, sparse in _TRUE, warnings)


def _parallel(key: str, wishes: Mapping[str, str]) -> tuple[int, tuple[str, ...]]:
    text = wishes.get(key, "").strip()
    if not text or text == "0":
        return 0, ()
    if not _COUNT.fullmatch(text):
        return 0, (f"{key} is ignored: {text[:64]!a} is no number from 1 to {MAX_PARALLEL}",)
    return min(int(text), MAX_PARALLEL), ()
