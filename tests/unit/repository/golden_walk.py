"""Read what a golden repository is said to hold, object by object, and tell what is different.

Directories are parsed here as plain JSON, so that reading is judged by itself; `agent.snapshots` has its own tests.
"""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.base.errors import RepositoryError
from agent.repository.ids import ObjectId
from agent.repository.repository import Repository

Json = dict[str, Any]


def load_expected(golden: Path, name: str) -> Json:
    """`expected.json` of a repository; of `algorithms/X` the one of X."""
    file, _, inner = name.partition("/")
    expected = json.loads((golden / "repos" / f"{file}.expected.json").read_text())
    return next(item for item in expected if item["repository"] == inner) if inner else expected


def snapshot_rows(expected: Json, snapshot: Json) -> list[Json]:
    """The entries of a snapshot in the order of a walk."""
    return [row for start, end in snapshot["entries"] for row in expected["table"][start:end]]


@dataclass
class Walk:
    """A walk through snapshots; an object is read once however many of them hold it."""

    repository: Repository
    errors: list[RepositoryError] = field(default_factory=list)
    _read: dict[str, bytes | None] = field(default_factory=dict)
    _digests: dict[str, tuple[int, str]] = field(default_factory=dict)

    async def differences(self, expected: Json, snapshot: Json) -> list[str]:
        """What is missing or different, one line each; nothing when the snapshot is complete."""
        rows = snapshot_rows(expected, snapshot)
        root = {"name": "", "type": rows[0]["type"], "obj": rows[0]["obj"], "size": rows[0].get("size", 0)}
        found = [(path, entry) async for path, entry in self.entries(root, "")]
        lines = []
        if [path for path, _ in found] != [row["path"] for row in rows]:
            lines.append(f"{len(found)} entries instead of {len(rows)}, or other names")
        for (path, entry), row in zip(found, rows, strict=False):
            if (entry["type"], entry["obj"]) != (row["type"], row["obj"]):
                lines.append(f"{path}: {entry} instead of {row}")
            elif entry["type"] != "d":
                lines += await self._compare(path, row)
        return lines

    async def entries(self, entry: Json, path: str) -> AsyncIterator[tuple[str, Json]]:
        """The tree below `entry`, itself first; directories that cannot be read end in `errors`."""
        yield path, entry
        if entry["type"] != "d":
            return
        data = await self.read(entry["obj"])
        if data is None:
            return
        for child in json.loads(data)["entries"] or ():
            async for item in self.entries(child, f"{path}/{child['name']}" if path else child["name"]):
                yield item

    async def read(self, oid: str) -> bytes | None:
        """An object, or None when that failed (again)."""
        if oid not in self._read:
            try:
                self._read[oid] = await self.repository.objects.read(ObjectId(oid))
            except RepositoryError as error:
                self.errors.append(error)
                self._read[oid] = None
        return self._read[oid]

    async def _compare(self, path: str, row: Json) -> list[str]:
        data = await self.read(row["obj"])
        if data is None:
            return [f"{path}: cannot be read"]
        if row["type"] == "s":
            target = base64.b64decode(row["target_b64"]) if "target_b64" in row else row["target"].encode()
            return [] if data == target else [f"{path}: links to {data!r}"]
        size, digest = self._digests.setdefault(row["obj"], (len(data), hashlib.sha256(data).hexdigest()))
        return [] if (size, digest) == (row["size"], row["sha256"]) else [f"{path}: {size} bytes with hash {digest}"]
