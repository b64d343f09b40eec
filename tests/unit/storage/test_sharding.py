import os
from pathlib import Path

import pytest

from agent.base.errors import BlobIdInvalid, StorageError
from agent.storage.base import BlobId
from agent.storage.sharding import DEFAULT_LAYOUT, LEGACY_LAYOUT, Layout, detect_layout, parse_layout

PACK = BlobId("p3c92c8baa4cf86d6bb6c295f1e7b6f10-sc5b5ef52f1dcd742147")


@pytest.mark.parametrize(
    ("blob_id", "path"),
    [
        (PACK, ("p/3c9", "2c8baa4cf86d6bb6c295f1e7b6f10-sc5b5ef52f1dcd742147.f")),
        ("kopia.repository", ("", "kopia.repository.f")),
        ("xw1795288712", ("", "xw1795288712.f")),
        ("a" * 20, ("", "a" * 20 + ".f")),
        ("xn0_" + "3" * 32 + "-c1", ("x/n0_", "3" * 32 + "-c1.f")),
    ],
)
def test_default_layout_places_blobs_as_kopia_does(blob_id: str, path: tuple[str, str]) -> None:
    assert DEFAULT_LAYOUT.path(BlobId(blob_id)) == path


def test_shards_stop_before_the_file_name_would_be_empty() -> None:
    assert Layout((3, 3), unsharded_length=0).path(BlobId("abcdef")) == ("abc", "def.f")
    assert Layout((3, 3), unsharded_length=0).path(BlobId("abc")) == ("", "abc.f")


def test_first_matching_override_wins() -> None:
    layout = parse_layout(
        b'{"default":[1,3],"maxNonShardedLength":20,"overrides":[{"prefix":"p3","shards":[2]},{"prefix":"p","shards":[]}]}',
        "x",
    )
    assert layout.path(PACK)[0] == "p3"
    assert layout.path(BlobId("p4" + PACK[2:]))[0] == ""
    assert layout.path(BlobId("q3" + PACK[2:]))[0] == "q/3c9"


def test_default_layout_is_written_as_kopia_writes_it() -> None:
    assert DEFAULT_LAYOUT.to_json() == b'{"default":[1,3],"maxNonShardedLength":20}\n'
    assert parse_layout(DEFAULT_LAYOUT.to_json(), "x") == DEFAULT_LAYOUT


@pytest.mark.parametrize(
    "bad", [b"", b"[]", b"{", b'{"default":[-1]}', b'{"default":["a"]}', b'{"default":' + b"[" * 9999]
)
def test_bad_parameters_are_named(bad: bytes) -> None:
    with pytest.raises(StorageError, match="where it is"):
        parse_layout(bad, "where it is")


def test_an_id_that_would_leave_the_root_is_refused() -> None:
    with pytest.raises(BlobIdInvalid):
        Layout((1, 2)).path(BlobId("p.." + "x" * 30))


def _place(root: Path, layout: Layout, *ids: str) -> None:
    for blob_id in ids:
        folder, name = layout.path(BlobId(blob_id))
        os.makedirs(root / folder, exist_ok=True)
        (root / folder / name).touch()


@pytest.mark.parametrize("layout", [DEFAULT_LAYOUT, LEGACY_LAYOUT, Layout(()), Layout((2, 2, 2))])
def test_lost_parameters_are_read_off_the_disk(tmp_path: Path, layout: Layout) -> None:
    _place(tmp_path, layout, "kopia.repository", PACK, "q" + PACK[1:], "xn0_" + PACK)
    detected = detect_layout(str(tmp_path))
    assert detected is not None
    assert [detected.path(BlobId(c + PACK[1:])) for c in "pq"] == [layout.path(BlobId(c + PACK[1:])) for c in "pq"]


def test_a_folder_with_short_blobs_only_is_legacy_and_an_empty_one_undecided(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "lost+found")
    assert detect_layout(str(tmp_path)) is None
    _place(tmp_path, DEFAULT_LAYOUT, "kopia.repository")
    assert detect_layout(str(tmp_path)) == LEGACY_LAYOUT
