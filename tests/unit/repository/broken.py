"""Apply the damages of `broken/recipes.json` to a repository in a folder."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

from agent.storage.base import BlobId
from agent.storage.sharding import Layout, read_layout

Recipe = dict[str, Any]


def load_recipes(golden: Path) -> dict[str, Recipe]:
    """All recipes by id."""
    return {recipe["id"]: recipe for recipe in json.loads((golden / "broken" / "recipes.json").read_text())["recipes"]}


def apply_recipe(repository: Path, recipe: Recipe) -> None:
    """Damage this copy of `recipe["repository"]`."""
    layout = read_layout(str(repository))
    assert layout is not None
    for op in recipe["ops"]:
        target = _file(repository, layout, op["blob"]) if "blob" in op else repository / op["path"]
        _apply(op, target, repository, layout)


def _file(repository: Path, layout: Layout, blob: str) -> Path:
    folder, name = layout.path(BlobId(blob))
    return repository / folder / name


def _apply(op: Recipe, target: Path, repository: Path, layout: Layout) -> None:
    match op["op"]:
        case "delete":
            target.unlink()
        case "truncate":
            with target.open("rb+") as file:
                file.truncate(op["length"])
        case "xor":
            data = bytearray(target.read_bytes())
            data[op["offset"]] ^= op["mask"]
            target.write_bytes(data)
        case "put":
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(base64.b64decode(op["data_b64"]))
        case "copy":
            destination = _file(repository, layout, op["to"])
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(target, destination)
        case other:
            raise AssertionError(f"unknown operation {other!r}")
