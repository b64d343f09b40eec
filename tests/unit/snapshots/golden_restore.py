"""Compare a restored tree with what the golden data says a snapshot holds."""

import base64
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.snapshots.model import UNKNOWN_TIME

Row = Mapping[str, Any]


def repositories(golden: Path, name: str) -> list[dict[str, Any]]:
    """What is expected of a golden repository; several for those that come in a folder."""
    found = json.loads((golden / "repos" / f"{name}.expected.json").read_text())
    return found if isinstance(found, list) else [found]


def rows(expected: Row, snapshot: Row) -> list[Row]:
    """The entries of a snapshot, the root first."""
    return [row for start, end in snapshot["entries"] for row in expected["table"][start:end]]


def describe(path: bytes) -> Row:
    """One entry of a file system, in the words of the golden data."""
    status = os.lstat(path)
    row: dict[str, Any] = {
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "mtime_ns": status.st_mtime_ns,
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
    if stat.S_ISLNK(status.st_mode):
        row |= {"type": "s", "target": os.fsdecode(os.readlink(path))}
    elif stat.S_ISDIR(status.st_mode):
        row |= {"type": "d"}
    else:
        row |= {
            "type": "f",
            "size": status.st_size,
            "sha256": hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest(),
        }
    return row


def walk(root: bytes, below: bytes = b"") -> Iterator[tuple[str, Row]]:
    """Everything in a tree, by stored path."""
    yield below.decode(), describe(os.path.join(root, below) if below else root)
    for name in sorted(os.listdir(os.path.join(root, below))):
        path = os.path.join(below, name) if below else name
        if os.path.isdir(os.path.join(root, path)) and not os.path.islink(os.path.join(root, path)):
            yield from walk(root, path)
        else:
            yield path.decode(), describe(os.path.join(root, path))


def differences(wanted: list[Row], target: Path) -> list[str]:
    """What is not as it should be; of rows with one path the last counts."""
    found = dict(walk(os.fsencode(target)))
    by_path = {row["path"]: row for row in wanted}
    bad = [f"unexpected: {path!r}" for path in found.keys() - by_path.keys()]
    for path, row in by_path.items():
        have = found.get(path)
        if have is None:
            bad.append(f"missing: {path!r}")
            continue
        for key in ("type", "mode", "mtime_ns", "uid", "gid", "size", "sha256", "target"):
            want = row.get(key)
            if key == "target" and "target_b64" in row:
                want = os.fsdecode(base64.b64decode(row["target_b64"]))
            if key == "mode" and row["type"] == "s":
                continue
            if key == "size" and row["type"] != "f":
                continue
            if key == "mtime_ns" and want == UNKNOWN_TIME:
                want = 0
            if want is not None and have.get(key) != want:
                bad.append(f"{path!r}: {key} is {have.get(key)!r}, not {want!r}")
    return bad
