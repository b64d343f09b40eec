"""The trees that are backed up: deterministic, made once under the work folder and reused."""

from __future__ import annotations

import os
import random
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FILES_PER_FOLDER = 1000
CHANGED_SHARE = 0.01
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Dataset:
    """One kind of volume."""

    name: str
    title: str
    make: Callable[[Path, random.Random], None]
    change: Callable[[Path, random.Random], None]
    memory_only: bool = False
    """Ours alone, once: how peak memory follows the number of files."""


def _random_bytes(rng: random.Random, length: int) -> bytes:
    return rng.randbytes(length)


def _small(count: int, size: int, per_folder: int = FILES_PER_FOLDER) -> Callable[[Path, random.Random], None]:
    def make(root: Path, rng: random.Random) -> None:
        for start in range(0, count, per_folder):
            folder = root / f"d{start // per_folder:05d}"
            folder.mkdir()
            for n in range(start, min(start + per_folder, count)):
                (folder / f"file-{n:07d}.dat").write_bytes(_random_bytes(rng, size) if size else b"")

    return make


def _large(count: int, size: int) -> Callable[[Path, random.Random], None]:
    def make(root: Path, rng: random.Random) -> None:
        for n in range(count):
            with (root / f"large-{n}.bin").open("wb") as out:
                for _ in range(size // (4 * _MIB)):
                    out.write(_random_bytes(rng, 4 * _MIB))

    return make


def _source(root: Path, _rng: random.Random) -> None:
    library = Path(sysconfig.get_paths()["stdlib"])
    for copy in range(4):
        shutil.copytree(
            library,
            root / f"python-{copy}",
            symlinks=True,
            ignore=shutil.ignore_patterns("site-packages", "__pycache__"),
        )


def _share(root: Path, rng: random.Random) -> list[Path]:
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return rng.sample(files, max(1, int(len(files) * CHANGED_SHARE)))


def _touch(root: Path, rng: random.Random) -> None:
    for path in _share(root, rng):
        path.touch()


def _change(root: Path, rng: random.Random) -> None:
    """Other bytes than there were, also when an earlier run with the same seed has been here."""
    for path in _share(root, rng):
        size = path.stat().st_size
        start = rng.randrange(size) if size else 0
        with path.open("r+b") as file:
            file.seek(start)
            old = file.read(64) or bytes(64)
            file.seek(start)
            file.write(bytes((byte + rng.randrange(1, 256)) % 256 for byte in old))


ALL = {
    d.name: d
    for d in (
        Dataset("small", "200,000 × 100 B", _small(200_000, 100), _change),
        Dataset("small20k", "20,000 × 100 B", _small(20_000, 100), _change),
        Dataset("empty", "200,000 empty files", _small(200_000, 0), _touch),
        Dataset("mib", "4,000 × 1 MiB", _small(4_000, _MIB), _change),
        Dataset("gib", "4 × 1 GiB random", _large(4, 1024 * _MIB), _change),
        Dataset("one", "one 4 GiB file", _large(1, 4096 * _MIB), _change),
        Dataset("source", "a source tree", _source, _change),
        Dataset("files10k", "10,000 × 100 B", _small(10_000, 100), _change, memory_only=True),
        Dataset("files100k", "100,000 × 100 B", _small(100_000, 100), _change, memory_only=True),
        Dataset("files1m", "1,000,000 × 100 B", _small(1_000_000, 100), _change, memory_only=True),
        Dataset(
            "folder1m", "1,000,000 × 100 B in one folder", _small(1_000_000, 100, 1_000_000), _change, memory_only=True
        ),
    )
}


def provide(name: str, work: Path) -> Path:
    """The folder of this data set, made on first use. Every run of the bench uses the same seed."""
    folder = work / "data" / name
    if not (folder.parent / f"{name}.complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"making {ALL[name].title}", file=sys.stderr)
        ALL[name].make(folder, random.Random(name))
        os.sync()
        (folder.parent / f"{name}.complete").touch()
    return folder
