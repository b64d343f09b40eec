"""Verifying snapshots and whole repositories: damage is found and named."""

from functools import lru_cache
from pathlib import Path

import msgspec
import pytest

from agent.base.errors import LighterageError, StorageUnavailable
from agent.repository.kdf import derive_password_key
from agent.repository.repository import Repository
from agent.snapshots.model import Snapshot
from agent.snapshots.store import list_snapshots
from agent.snapshots.verify import VerifyOptions, VerifyReport, _Verify, verify_snapshots
from agent.snapshots.verify_repository import RepositoryReport, verify_repository
from agent.storage.open import open_storage
from tests.unit.repository.broken import apply_recipe, load_recipes

_derive = lru_cache(derive_password_key)
PASSWORD = "static-passw0rd"


@pytest.fixture(autouse=True)
def keys_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.repository.format_manager.derive_password_key", _derive)


async def verify_all(folder: Path, password: str, percent: float) -> RepositoryReport | LighterageError:
    storage = await open_storage(folder.as_uri())
    try:
        async with Repository.open(storage, password) as repository:
            return await verify_repository(repository, options=VerifyOptions(files_percent=percent))
    except LighterageError as error:
        return error
    finally:
        await storage.close()


@pytest.mark.parametrize("name", ["small-v3", "small-v1", "epochs"])
async def test_a_sound_repository_is_good(golden_repository, name: str) -> None:
    report = await verify_all(golden_repository(name), PASSWORD, 100)
    assert isinstance(report, RepositoryReport)
    assert report.good
    assert (report.errors, report.snapshots.failures) == ([], [])
    assert report.snapshots.files_read == report.snapshots.files > 0
    assert msgspec.json.decode(msgspec.json.encode(report), type=RepositoryReport) == report


async def test_a_missing_pack_is_found_without_reading_and_the_files_are_named(golden: Path, golden_repository) -> None:
    recipe = load_recipes(golden)["pack-removed"]
    folder = golden_repository(recipe["repository"])
    apply_recipe(folder, recipe)
    report = await verify_all(folder, PASSWORD, 0)
    assert isinstance(report, RepositoryReport)
    assert report.snapshots.bytes_read == 0
    assert report.snapshots.failed > 0
    assert all(f.snapshot and f.path and f.code == "repository.content-not-found" for f in report.snapshots.failures)
    assert report.snapshots.packs_hit == [finding.what for finding in report.errors]


async def test_a_share_of_the_files_is_the_same_share_for_the_same_seed(golden_repository) -> None:
    storage = await open_storage(golden_repository("small-v3").as_uri())
    async with Repository.open(storage, PASSWORD) as repository:
        snapshots = list_snapshots(repository.manifests).snapshots
        reads = [
            (await verify_snapshots(repository, snapshots, options=VerifyOptions(50, seed))).files_read
            for seed in (1, 1, 2)
        ]
    await storage.close()
    assert reads[0] == reads[1]
    assert 0 < reads[0] < 49


async def test_a_run_that_was_cut_short_does_not_begin_again(
    golden_repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await open_storage(golden_repository("small-v3").as_uri())
    state = tmp_path / "state"
    async with Repository.open(storage, PASSWORD) as repository:
        snapshots = list_snapshots(repository.manifests).snapshots
        looked_at: list[str] = []
        verify_one = _Verify.snapshot

        async def stops_at_the_second(run: _Verify, snapshot: Snapshot) -> None:
            looked_at.append(snapshot.id)
            if len(looked_at) == 2:
                raise StorageUnavailable("gone for now")
            await verify_one(run, snapshot)

        monkeypatch.setattr(_Verify, "snapshot", stops_at_the_second)
        with pytest.raises(StorageUnavailable):
            await verify_snapshots(repository, snapshots, state_path=str(state))
        report = await verify_snapshots(repository, snapshots, state_path=str(state))
    await storage.close()
    assert looked_at == [snapshots[0].id, snapshots[1].id, snapshots[1].id]
    assert (report.snapshots, report.files) == (2, 49)
    assert not state.exists()


def test_a_report_is_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(VerifyReport()), type=VerifyReport) == VerifyReport()
