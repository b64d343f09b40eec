"""Typed views read what a real cluster recorded, lose nothing on the way back, and change only what they mean to."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import KubeUnreadable
from agent.kube import codec
from agent.kube.backup_storage_location import BackupStorageLocation
from agent.kube.data_download import DataDownload
from agent.kube.data_upload import DataUpload
from agent.kube.job import Phase, Progress
from agent.kube.meta import Key, KubeObject
from agent.kube.resource import (
    BACKUP_REPOSITORIES,
    BACKUP_STORAGE_LOCATIONS,
    CONFIG_MAPS,
    DATA_DOWNLOADS,
    DATA_UPLOADS,
    POD_VOLUME_BACKUPS,
    POD_VOLUME_RESTORES,
)
from agent.kube.times import ns_from_time, time_from_ns

_VIEWS = {
    resource.view.__name__: resource.view
    for resource in (
        BACKUP_REPOSITORIES,
        BACKUP_STORAGE_LOCATIONS,
        CONFIG_MAPS,
        DATA_DOWNLOADS,
        DATA_UPLOADS,
        POD_VOLUME_BACKUPS,
        POD_VOLUME_RESTORES,
    )
}


@lru_cache
def _recorded(golden: Path) -> dict[str, codec.JsonObject]:
    recorded = {}
    for file in sorted((golden / "objects").glob("*.yaml")):
        for value in yaml.load_all(file.read_text(), Loader=yaml.CSafeLoader):
            if isinstance(value, dict) and value.get("kind") in _VIEWS:
                recorded[file.name] = value
    return recorded


def _upload(golden: Path, name: str = "dataupload.InProgress.yaml") -> tuple[codec.JsonObject, DataUpload]:
    value = _recorded(golden)[name]
    return value, codec.decode(DataUpload, value)


def test_every_recorded_object_is_read_and_written_back_equal(golden: Path) -> None:
    recorded = _recorded(golden)
    assert len(recorded) > 40
    for name, value in recorded.items():
        view: type[KubeObject] = _VIEWS[str(value["kind"])]
        assert codec.encode(codec.decode(view, value)) == value, name


def test_a_recorded_upload_has_its_values(golden: Path) -> None:
    _, upload = _upload(golden, "dataupload.Completed.yaml")
    assert upload.key == Key("velero", "dm-big-szhtz")
    assert upload.status.phase is Phase.COMPLETED and upload.status.phase.is_final
    assert upload.status.progress == Progress(total_bytes=1 << 30, bytes_done=1 << 30)
    assert upload.status.start_timestamp == time_from_ns(1795376444_999_999_999)
    assert upload.spec.source_pvc == "data"


def test_a_change_names_only_what_changed(golden: Path) -> None:
    value, before = _upload(golden)
    status = msgspec.structs.replace(
        before.status, phase=Phase.FAILED, message="disk on fire", completion_timestamp=time_from_ns(0)
    )
    after = msgspec.structs.replace(before, status=status)
    patch = codec.merge_patch(before, after)
    assert patch == {
        "status": {"phase": "Failed", "message": "disk on fire", "completionTimestamp": "1970-01-01T00:00:00Z"}
    }
    assert codec.decode(DataUpload, codec.apply_merge_patch(value, patch)) == after


def test_a_label_taken_away_is_patched_to_null_and_unknown_fields_stay(golden: Path) -> None:
    value, before = _upload(golden)
    value = codec.apply_merge_patch(value, {"spec": {"fromTheFuture": {"x": [1]}}, "status": {"alsoNew": 1}})
    labels = dict(before.metadata.labels)
    gone = labels.popitem()[0]
    after = msgspec.structs.replace(before, metadata=msgspec.structs.replace(before.metadata, labels=labels))
    patch = codec.merge_patch(before, after)
    assert patch == {"metadata": {"labels": {gone: None}}}
    written = codec.apply_merge_patch(value, patch)
    assert written["spec"] == value["spec"] and written["status"] == value["status"]


def test_nulls_as_go_writes_them_mean_absent(golden: Path) -> None:
    value, before = _upload(golden)
    nulls: codec.JsonObject = {"startTimestamp": None, "message": None}
    value = {**value, "status": {**value["status"], **nulls}}  # type: ignore[dict-item]
    assert codec.decode(DataUpload, value).status.start_timestamp is None
    assert codec.decode(DataUpload, value).spec == before.spec


@pytest.mark.parametrize(
    "change",
    [
        {"status": {"phase": "Sleeping"}},
        {"status": {"startTimestamp": "yesterday"}},
        {"status": {"progress": {"bytesDone": "12"}}},
        {"spec": {"cancel": "true"}},
        {"spec": {"sourcePVC": None}},
        {"metadata": {"labels": {"a": 1}}},
    ],
)
def test_another_type_or_phase_than_any_version_has_is_refused_by_name(golden: Path, change: codec.JsonObject) -> None:
    value, upload = _upload(golden)
    with pytest.raises(KubeUnreadable, match=upload.metadata.name):
        codec.decode(DataUpload, codec.apply_merge_patch(value, change))


def test_a_target_without_pv_is_read(golden: Path) -> None:
    value = _recorded(golden)["datadownload.New.yaml"]
    value = codec.apply_merge_patch(value, {"spec": {"targetVolume": {"pv": None}}})
    assert codec.encode(codec.decode(DataDownload, value)) == value


def test_a_storage_location_with_a_certificate_is_read() -> None:
    value: codec.JsonObject = {
        "apiVersion": "velero.io/v1",
        "kind": "BackupStorageLocation",
        "metadata": {"name": "default", "namespace": "velero"},
        "spec": {
            "provider": "aws",
            "config": {"region": "minio", "s3ForcePathStyle": "true"},
            "credential": {"name": "cloud", "key": "cloud"},
            "objectStorage": {"bucket": "velero", "caCert": "LS0tCg=="},
            "default": True,
        },
        "status": {"phase": "Available", "lastSyncedTime": "2026-11-22T19:40:35Z"},
    }
    location = codec.decode(BackupStorageLocation, value)
    assert location.spec.object_storage is not None and location.spec.object_storage.ca_cert == b"---\n"
    assert codec.encode(location) == value


_JSON = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(st.sampled_from("abc"), below, max_size=3),
    max_leaves=8,
)
_OBJECTS = st.dictionaries(st.sampled_from("abc"), _JSON, max_size=3)


@given(before=_OBJECTS, after=_OBJECTS)
def test_the_difference_merged_into_the_one_gives_the_other(before: codec.JsonObject, after: codec.JsonObject) -> None:
    assert codec.apply_merge_patch(before, codec._difference(before, after)) == after


@given(st.integers(min_value=-62_135_596_800, max_value=253_402_300_799))
def test_times_come_back_to_the_second(seconds: int) -> None:
    assert ns_from_time(time_from_ns(seconds * 10**9 + 999_999_999)) == seconds * 10**9


def test_paths_are_those_of_the_api_server() -> None:
    assert DATA_UPLOADS.path("velero", "x") == "/apis/velero.io/v2alpha1/namespaces/velero/datauploads/x"
    assert DATA_UPLOADS.path() == "/apis/velero.io/v2alpha1/datauploads"
    assert CONFIG_MAPS.path("velero") == "/api/v1/namespaces/velero/configmaps"
    assert (CONFIG_MAPS.name, DATA_UPLOADS.name) == ("configmaps", "datauploads.velero.io")
