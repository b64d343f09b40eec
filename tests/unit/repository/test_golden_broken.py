"""Damaged repositories: never worse than kopia, and no damage that kopia reports is passed over."""

from functools import lru_cache
from pathlib import Path

import msgspec
import pytest

from agent.base.errors import LighterageError, RepositoryError
from agent.repository.kdf import derive_password_key
from agent.repository.repository import Repository
from agent.storage.open import open_storage
from tests.unit.repository.broken import Recipe, apply_recipe, load_recipes
from tests.unit.repository.golden_walk import Json, Walk, load_expected

COMMANDS = ("connect", "snapshot list", "restore 0", "restore 1", "snapshot verify", "content verify --full")


SURVIVED = {"shards-missing"}
"""Where we read everything although kopia fails: the layout of the folder is found out."""

RECIPES = [
    "none",
    "wrong-password",
    "format-sealed-part-bit",
    "format-unique-id",
    "format-truncated",
    "format-zero-length",
    "format-missing",
    "blobcfg-missing",
    "blobcfg-bit",
    "blobcfg-zero-length",
    "shards-missing",
    "pack-content-bit",
    "pack-content-nonce-bit",
    "pack-preamble-bit",
    "pack-padding-bit",
    "pack-local-index-bit",
    "pack-postamble-bit",
    "pack-tail-cut",
    "pack-half",
    "pack-zero-length",
    "pack-removed",
    "pack-first-removed",
    "pack-swapped",
    "dir-content-bit",
    "dir-pack-removed",
    "manifest-pack-bit",
    "index-bit",
    "index-truncated",
    "index-zero-length",
    "index-removed",
    "index-first-removed",
    "index-all-removed",
    "index-renamed",
    "index-copied-to-epoch-1",
    "index-foreign",
    "index-foreign-far-epoch",
    "epoch-marker-1",
    "epoch-marker-5",
    "epoch-marker-malformed",
    "watermark-future",
    "watermark-malformed",
    "compaction-foreign",
    "compaction-foreign-settled",
    "compaction-incomplete-set",
    "session-marker-garbage",
    "session-marker-valid-old",
    "session-marker-duplicate",
    "maintenance-blob-garbage",
    "foreign-file",
    "foreign-blob",
    "foreign-pack",
    "foreign-legacy-names",
    "foreign-log",
    "temporary-file",
    "manifest-unknown-top-level-key",
    "snapshot-mode-number",
    "entry-without-object",
    "v1-none",
    "v1-format-missing",
    "v1-index-removed",
    "v1-index-bit",
    "v1-foreign-index",
    "v1-foreign-index-long",
    "v1-poison",
    "v1-compaction-log-garbage",
    "v1-cleanup-log-garbage",
    "v1-compaction-log-invalid",
]


@pytest.fixture(autouse=True)
def keys_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.repository.format_manager.derive_password_key", _derive)


_derive = lru_cache(derive_password_key)


async def read_all(
    storage_url: str, password: str, expected: Json
) -> tuple[list[LighterageError], dict[int, list[str]]]:
    """What went wrong, and per snapshot what is missing or different."""
    nothing = {number: ["not opened"] for number in range(len(expected["snapshots"]))}
    try:
        storage = await open_storage(storage_url)
    except LighterageError as error:
        return [error], nothing
    try:
        async with Repository.open(storage, password) as repository:
            walk = Walk(repository)
            differences = {}
            for number, snapshot in enumerate(expected["snapshots"]):
                differences[number] = await walk.differences(expected, snapshot)
            try:
                for manifest in repository.manifests.find({"type": "snapshot"}):
                    root = msgspec.json.decode(manifest.data)["rootEntry"]
                    async for _, entry in walk.entries(root, ""):
                        await walk.read(entry["obj"])
            except RepositoryError as error:
                walk.errors.append(error)
            wanted = [entry.content for entry in repository.index.iterate()]
            async for _ in repository.contents.read_many(wanted, on_error=lambda _, error: walk.errors.append(error)):
                pass
            return list(walk.errors), differences
    except LighterageError as error:
        return [error], nothing
    finally:
        await storage.close()


@pytest.mark.parametrize("recipe_id", RECIPES)
async def test_a_damaged_repository_is_read_as_far_as_kopia_reads_it_and_damage_is_named(
    golden: Path, golden_repository, recipe_id: str
) -> None:
    recipe: Recipe = load_recipes(golden)[recipe_id]
    expected = load_expected(golden, recipe["repository"])
    folder = golden_repository(recipe["repository"])
    apply_recipe(folder, recipe)

    errors, differences = await read_all(folder.as_uri(), recipe.get("password", expected["password"]), expected)

    for number, state in recipe["restorable"].items():
        if state == "complete":
            assert differences[int(number)] == []
    kopia_failed = [name for name in COMMANDS if recipe["kopia"].get(name, {}).get("exit")]
    survived = not any(differences.values()) and recipe_id in SURVIVED
    assert errors or not kopia_failed or survived, f"kopia fails at {kopia_failed}"
    for error in errors:
        assert error.code != "internal"
        assert type(error) is not RepositoryError
