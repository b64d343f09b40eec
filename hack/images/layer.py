"""A layer: a folder as a tar file that depends on nothing but names, contents and modes."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a layer comes about: `fill` puts its files below a folder; `key` is the hash of all that this depends on."""

    name: str
    key: str
    fill: Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that is made: its tar file, and the digest of that."""

    path: Path
    digest: str
    size: int


def hash_of(*parts: str | bytes | Path) -> str:
    """A hash of texts and of files: contents of a file, names and contents of a folder."""
    total = hashlib.sha256()
    for part in parts:
        for piece in _files(part) if isinstance(part, Path) else (part,):
            data = str(piece).encode() if isinstance(piece, str) else piece
            total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()


def _files(path: Path) -> list[bytes]:
    if path.is_file():
        return [_digest(path).encode()]
    found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix not in {".pyc", ".so"})
    return [f"{p.relative_to(path)} {_digest(p)}".encode() for p in found]


def _digest(path: Path) -> str:
    with open(path, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def make_layer(recipe: Recipe, cache: Path) -> Layer:
    """The layer of a recipe, from the cache if it was made before."""
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{recipe.name}-{recipe.key[:16]}.tar"
    if not path.exists():
        print(f"hack/image: making layer {recipe.name}", flush=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            recipe.fill(Path(folder))
            unfinished = path.with_suffix(".new")
            _pack(Path(folder), unfinished)
            unfinished.rename(path)
        for older in cache.glob(f"{recipe.name}-{'?' * 16}.tar"):
            if older != path:
                older.unlink()
    return Layer(path, _digest(path), path.stat().st_size)


def _pack(folder: Path, target: Path) -> None:
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for base, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted([*folders, *files]):
                path = Path(base) / name
                entry = tar.gettarinfo(path, str(path.relative_to(folder)))
                entry.uid = entry.gid = entry.mtime = 0
                entry.uname = entry.gname = ""
                entry.mode = _plain_mode(entry)
                if entry.isreg():
                    with open(path, "rb") as data:
                        tar.addfile(entry, data)
                else:
                    if entry.islnk():
                        raise ValueError(f"a hard link in a layer: {path}")
                    tar.addfile(entry)


def _plain_mode(entry: tarfile.TarInfo) -> int:
    """Folders that everybody may write keep their mode; the rest does not depend on the maker's umask."""
    if entry.isdir():
        return entry.mode if entry.mode & stat.S_IWOTH else 0o755
    if entry.issym():
        return 0o777
    return 0o755 if entry.mode & stat.S_IXUSR else 0o644
