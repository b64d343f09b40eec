"""Every damage of the recipes: what verify calls it, and what a restore still gives back, also after a repair.

`Opening` is for what the repository cannot be opened with. The codes stand without `repository.`, with the kinds of
blobs that they name: a letter for the prefix, or the name of what is no blob.
"""

import contextlib
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pytest

from agent.base.errors import LighterageError, PartialRestore
from agent.repository.kdf import derive_password_key
from agent.repository.repository import Repository
from agent.snapshots.restore import RestoreOptions, restore
from agent.snapshots.store import list_snapshots
from agent.snapshots.verify import VerifyOptions
from agent.snapshots.verify_repository import Finding, RepositoryReport, verify_repository
from agent.storage.open import open_storage
from tests.unit.repository.broken import Recipe, apply_recipe, load_recipes
from tests.unit.snapshots.golden_restore import Row, differences, repositories, rows

_derive = lru_cache(derive_password_key)


@pytest.fixture(autouse=True)
def keys_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.repository.format_manager.derive_password_key", _derive)


@dataclass(frozen=True)
class Opening:
    code: str


@dataclass(frozen=True)
class Found:
    errors: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)
    failed: int = 0
    failure: str = ""


EXPECTED: dict[str, Opening | Found] = {
    "none": Found(),
    "wrong-password": Opening("wrong-password"),
    "format-sealed-part-bit": Opening("wrong-password"),
    "format-unique-id": Opening("wrong-password"),
    "format-truncated": Opening("corrupt-format"),
    "format-zero-length": Opening("corrupt-format"),
    "format-missing": Opening("not-found"),
    "blobcfg-missing": Found(),
    "blobcfg-bit": Opening("corrupt-format"),
    "blobcfg-zero-length": Opening("corrupt-format"),
    "shards-missing": Found(),
    "pack-content-bit": Found(failed=2, failure="corrupt-content"),
    "pack-content-nonce-bit": Found(failed=2, failure="corrupt-content"),
    "pack-preamble-bit": Found(),
    "pack-padding-bit": Found(),
    "pack-local-index-bit": Found(warnings={"corrupt-local-index": "p"}),
    "pack-postamble-bit": Found(warnings={"corrupt-local-index": "p"}),
    "pack-tail-cut": Found(warnings={"corrupt-local-index": "p"}),
    "pack-half": Found(
        errors={"corrupt-content": "p"}, warnings={"corrupt-local-index": "p"}, failed=21, failure="content-not-found"
    ),
    "pack-zero-length": Found(
        errors={"corrupt-content": "p"}, warnings={"corrupt-local-index": "p"}, failed=6, failure="content-not-found"
    ),
    "pack-removed": Found(errors={"content-not-found": "p"}, failed=6, failure="content-not-found"),
    "pack-first-removed": Found(errors={"content-not-found": "p"}, failed=43, failure="content-not-found"),
    "pack-swapped": Found(warnings={"corrupt-local-index": "p"}, failed=6, failure="corrupt-content"),
    "dir-content-bit": Found(failed=2, failure="corrupt-content"),
    "dir-pack-removed": Found(errors={"content-not-found": "manifestsq"}),
    "manifest-pack-bit": Found(errors={"corrupt-content": "manifests"}),
    "index-bit": Opening("corrupt-index"),
    "index-truncated": Opening("corrupt-index"),
    "index-zero-length": Opening("corrupt-index"),
    "index-removed": Found(warnings={"lost-index": "pq"}),
    "index-first-removed": Found(warnings={"lost-index": "pq"}, failed=20, failure="content-not-found"),
    "index-all-removed": Found(warnings={"lost-index": "pq"}),
    "index-renamed": Opening("corrupt-index"),
    "index-copied-to-epoch-1": Found(),
    "index-foreign": Opening("corrupt-index"),
    "index-foreign-far-epoch": Found(),
    "epoch-marker-1": Found(),
    "epoch-marker-5": Found(),
    "epoch-marker-malformed": Found(),
    "watermark-future": Found(),
    "watermark-malformed": Found(),
    "compaction-foreign": Found(),
    "compaction-foreign-settled": Opening("corrupt-index"),
    "compaction-incomplete-set": Found(),
    "session-marker-garbage": Found(warnings={"corrupt-blob": "s"}),
    "session-marker-valid-old": Found(),
    "session-marker-duplicate": Found(warnings={"corrupt-blob": "s"}),
    "maintenance-blob-garbage": Found(warnings={"corrupt-blob": "kopia.maintenance"}),
    "foreign-file": Found(),
    "foreign-blob": Found(),
    "foreign-pack": Found(warnings={"foreign-pack": "p"}),
    "foreign-legacy-names": Found(),
    "foreign-log": Found(),
    "temporary-file": Found(),
    "manifest-unknown-top-level-key": Found(errors={"corrupt-manifest": "manifests"}),
    "snapshot-mode-number": Found(errors={"corrupt-manifest": "manifests"}),
    "entry-without-object": Found(failed=1, failure="corrupt-object"),
    "v1-none": Found(),
    "v1-format-missing": Opening("not-found"),
    "v1-index-removed": Found(warnings={"lost-index": "pq"}),
    "v1-index-bit": Opening("corrupt-index"),
    "v1-foreign-index": Opening("corrupt-index"),
    "v1-foreign-index-long": Opening("corrupt-index"),
    "v1-poison": Opening("newer-format"),
    "v1-compaction-log-garbage": Opening("corrupt-index"),
    "v1-cleanup-log-garbage": Found(warnings={"corrupt-blob": "l"}),
    "v1-compaction-log-invalid": Found(),
}


def kinds(findings: list[Finding]) -> dict[str, str]:
    named: dict[str, set[str]] = {}
    for finding in findings:
        what = finding.what if finding.what in ("manifests", "kopia.maintenance") else finding.what[0]
        named.setdefault(finding.code.removeprefix("repository."), set()).add(what)
    return {code: "".join(sorted(blobs)) for code, blobs in named.items()}


async def restored(repository: Repository, expected: Row, target: Path) -> dict[int, int]:
    """For each snapshot that is still known, how many of its entries did not come back as they were."""
    try:
        roots = {snapshot.id: snapshot.root for snapshot in list_snapshots(repository.manifests).snapshots}
    except LighterageError:
        return {}  # nobody knows the snapshots any more; verify has said so
    bad = {}
    target.mkdir()
    for number, snapshot in enumerate(expected["snapshots"]):
        root = roots.get(snapshot["id"])
        if root is None:
            continue
        folder = target / str(number)
        with contextlib.suppress(PartialRestore):
            await restore(repository, root, folder, options=RestoreOptions(owners=os.geteuid() == 0))
        wanted = [row | ({} if os.geteuid() == 0 else {"uid": None, "gid": None}) for row in rows(expected, snapshot)]
        bad[number] = len({text.split(":")[0 if text[0] == "'" else 1] for text in differences(wanted, folder)})
    return bad


def check_restored(recipe: Recipe, expected: Row, bad: dict[int, int], restorable: dict[str, str], run: str) -> None:
    for number, state in restorable.items():
        if state == "complete":
            assert bad.get(int(number)) == 0, f"snapshot {number} after {run}"
        if state == "partial":
            total = len({row["path"] for row in rows(expected, expected["snapshots"][int(number)])})
            kopia = recipe["kopia"].get(f"{run} {number}", {}).get("identical", 0)
            assert total - bad[int(number)] >= kopia


@pytest.mark.parametrize("recipe_id", EXPECTED)
async def test_each_damage_has_its_name_and_what_kopia_gives_back_comes_back(
    golden: Path, golden_repository, tmp_path: Path, recipe_id: str
) -> None:
    recipe = load_recipes(golden)[recipe_id]
    expected = repositories(golden, recipe["repository"])[0]
    folder = golden_repository(recipe["repository"])
    apply_recipe(folder, recipe)
    wanted = EXPECTED[recipe_id]
    password = recipe.get("password", expected["password"])
    storage = await open_storage(folder.as_uri())
    try:
        try:
            async with Repository.open(storage, password) as repository:
                report = await verify_repository(repository, options=VerifyOptions(100))
                bad = await restored(repository, expected, tmp_path / "restored")
        except LighterageError as error:
            assert Opening(error.code.removeprefix("repository.")) == wanted
            return
        assert found(report) == wanted
        check_restored(recipe, expected, bad, recipe["restorable"], "restore")
        if "restorable_after_index_recover" in recipe:
            await Repository.repair_index(storage, password, commit=True)
            async with Repository.open(storage, password) as repository:
                bad = await restored(repository, expected, tmp_path / "repaired")
            check_restored(recipe, expected, bad, recipe["restorable_after_index_recover"], "repair")
    finally:
        await storage.close()


def found(report: RepositoryReport) -> Found:
    codes = {failure.code.removeprefix("repository.") for failure in report.snapshots.failures}
    assert all(failure.snapshot and failure.message for failure in report.snapshots.failures)
    return Found(kinds(report.errors), kinds(report.warnings), report.snapshots.failed, "".join(sorted(codes)))


def test_every_recipe_has_a_row_and_what_kopia_fails_at_is_named(golden: Path) -> None:
    recipes = load_recipes(golden)
    assert EXPECTED.keys() == recipes.keys()
    for recipe_id, recipe in recipes.items():
        kopia_fails = any(run.get("exit") for run in recipe["kopia"].values() if isinstance(run, dict))
        if kopia_fails and recipe_id != "shards-missing":  # the layout of the folder is found out
            assert EXPECTED[recipe_id] != Found(), recipe_id
