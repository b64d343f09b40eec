"""The format blob: opened, checked, rewritten without loss."""

import contextlib
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.base.errors import (
    AlgorithmUnsupported,
    CorruptFormat,
    LighterageError,
    NewerFormat,
    RepositoryError,
    RepositoryLocked,
    RequiredFeatureUnknown,
    UsageError,
    WrongPassword,
)
from agent.repository.format_blob import (
    DEFAULT_EPOCH_PARAMETERS,
    DEFAULT_MAX_PACK_SIZE,
    EpochParameters,
    ObjectLock,
    RepositoryFormat,
    UpgradeLock,
    build_blobcfg,
    ensure_unlocked,
    open_format,
    parse_blobcfg,
    parse_envelope,
)
from agent.repository.kdf import open_format_part, seal_format_part

KEY = bytes(32)
ID = bytes(range(32))
MINUTE = 60 * 10**9
INNER: dict[str, Any] = {
    "hash": "BLAKE2B-256-128",
    "encryption": "AES256-GCM-HMAC-SHA256",
    "secret": b64encode(b"hash-secret").decode(),
    "masterKey": b64encode(b"master-key").decode(),
    "version": 3,
    "indexVersion": 2,
    "epochParameters": {},
    "enablePasswordChange": True,
    "splitter": "FIXED-1M",
}


def blob_around(plaintext: bytes, **outer: Any) -> bytes:
    values: dict[str, Any] = {
        "uniqueID": b64encode(ID).decode(),
        "keyAlgo": "scrypt-65536-8-1",
        "encryption": "AES256_GCM",
        "encryptedBlockFormat": b64encode(seal_format_part(KEY, ID, plaintext)).decode(),
    }
    return json.dumps(values | outer).encode()


def opened(**changes: Any) -> RepositoryFormat:
    return open_format(parse_envelope(blob_around(json.dumps({"format": INNER | changes}).encode())), KEY)


def test_every_golden_format_blob_is_opened_to_what_it_holds(golden: Path) -> None:
    for vector in json.loads((golden / "vectors.json").read_text())["format_blob"]:
        expected = json.loads(vector["plaintext"])["format"]
        key = bytes.fromhex(vector["derived_key"])
        envelope = parse_envelope(vector["blob"].encode())
        found = open_format(envelope, key)
        assert found.unique_id.hex() == vector["unique_id"]
        assert (found.key_algorithm, found.hash) == (vector["key_algo"], expected["hash"])
        assert (found.version, found.index_version) == (expected["version"], expected["indexVersion"])
        assert found.enable_password_change is expected["enablePasswordChange"]
        assert b64encode(found.master_key).decode() == expected["masterKey"]
        assert b64encode(found.secret).decode() == expected["secret"]
        assert found.epoch_parameters.min_epoch_duration == expected["epochParameters"]["MinEpochDuration"]
        assert (found.ecc, found.ecc_overhead_percent) == (
            expected.get("ecc", ""),
            expected.get("eccOverheadPercent", 0),
        )
        config = json.loads(vector["blobcfg_plaintext"])
        lock = ObjectLock(config["retentionMode"], config["retentionPeriod"]) if config else None
        assert parse_blobcfg(bytes.fromhex(vector["blobcfg_sealed"]), found.unique_id, key) == lock
        assert (found.recovery_copy is None) == expected["enablePasswordChange"]


def test_the_maintenance_key_follows_the_password_change_flag(golden: Path) -> None:
    vectors = json.loads((golden / "vectors.json").read_text())
    for vector in vectors["maintenance_schedule"]:
        secret = bytes.fromhex(vector["secret_used"])
        change = vector["enable_password_change"]
        found = opened(masterKey=b64encode(secret if change else b"x").decode(), enablePasswordChange=change)
        values = {"unique_id": bytes.fromhex(vector["unique_id"]), "password_key": b"x" if change else secret}
        fields = {name: getattr(found, name) for name in RepositoryFormat.__slots__} | values
        assert RepositoryFormat(**fields).maintenance_key.hex() == vector["key"], vector["repository"]


def test_secrets_do_not_show() -> None:
    found = opened()
    for shown in (repr(found), str(found)):
        assert "hash-secret" not in shown and "master-key" not in shown and "KEY" not in shown
    assert "sealed" not in repr(parse_envelope(found.blob))


def test_what_is_left_out_gets_kopias_old_defaults() -> None:
    found = opened(indexVersion=0, splitter="", maxPackSize=0)
    assert (found.index_version, found.splitter, found.max_pack_size) == (1, "FIXED", DEFAULT_MAX_PACK_SIZE)


def test_error_correction_without_overhead_is_off() -> None:
    assert opened(ecc="REED-SOLOMON-CRC32").ecc == ""
    assert opened(ecc="REED-SOLOMON-CRC32", eccOverheadPercent=5).ecc_overhead_percent == 5


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"version": 4}, NewerFormat),
        ({"version": 10**30}, NewerFormat),
        ({"indexVersion": 3}, NewerFormat),
        ({"version": 0}, CorruptFormat),
        ({"version": -1}, CorruptFormat),
        ({"maxPackSize": -1}, CorruptFormat),
        ({"eccOverheadPercent": 101}, CorruptFormat),
        ({"epochParameters": {"Enabled": True}}, CorruptFormat),
        ({"version": "3"}, CorruptFormat),
        ({"masterKey": "!"}, CorruptFormat),
        ({"upgradeLock": {"creationTime": "soon"}}, CorruptFormat),
        ({"requiredFeatures": [{"feature": "warp-drive", "ifNotUnderstood": {}}]}, RequiredFeatureUnknown),
    ],
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any], error: type[RepositoryError]) -> None:
    with pytest.raises(error):
        opened(**changes)


def test_an_unknown_feature_is_named_with_what_its_author_says() -> None:
    note = {"message": "you need warp", "url": "https://example.org", "upgradeToVersion": "9.9"}
    with pytest.raises(RequiredFeatureUnknown, match=r"warp-drive.*you need warp.*example\.org.*9\.9"):
        opened(requiredFeatures=[{"feature": "warp-drive", "ifNotUnderstood": note}])
    note["warn"] = True  # type: ignore[assignment]
    found = opened(requiredFeatures=[{"feature": "warp-drive", "ifNotUnderstood": note}, {"feature": "index-v2"}])
    assert [feature.feature for feature in found.unknown_features()] == ["warp-drive"]


def test_another_key_is_a_wrong_password_and_another_cipher_unsupported() -> None:
    envelope = parse_envelope(blob_around(b"{}"))
    with pytest.raises(WrongPassword):
        open_format(envelope, b"1" * 32)
    with pytest.raises(CorruptFormat):
        open_format(envelope, KEY)
    with pytest.raises(AlgorithmUnsupported, match="ROT13"):
        parse_envelope(blob_around(b"{}", encryption="ROT13"))


def test_a_new_key_loses_nothing_of_either_layer() -> None:
    plaintext = json.dumps({"format": INNER | {"later": {"b": 1}}, "beside": [1]}).encode()
    blob = blob_around(plaintext, tool="some tool", extension={"z": 1, "a": 2})
    resealed = parse_envelope(parse_envelope(blob).resealed(KEY, b"1" * 32).blob)
    assert open_format_part(b"1" * 32, ID, resealed.sealed) == plaintext
    before, after = json.loads(blob), json.loads(resealed.blob)
    assert list(before) == list(after)
    assert after | {"encryptedBlockFormat": before["encryptedBlockFormat"]} == before


@pytest.mark.parametrize(
    ("notice", "now", "locked"),
    [(0, 0, True), (10, 0, True), (60, 0, False), (60, 48, False), (60, 49, True), (60, 61, True)],
)
def test_an_upgrade_lock_takes_hold_one_drain_before_its_notice_ends(notice: int, now: int, locked: bool) -> None:
    lock = UpgradeLock("owner", 0, notice * MINUTE, 5 * MINUTE, MINUTE, "")
    assert lock.locked(now * MINUTE) is locked


def test_a_locked_repository_is_refused_with_its_message() -> None:
    lock = {
        "ownerID": "o1",
        "creationTime": "2026-01-01T00:00:00Z",
        "ioDrainTimeout": 5 * MINUTE,
        "message": "upgrading",
    }
    with pytest.raises(RepositoryLocked, match=r"o1.*2026-01-01.*upgrading"):
        ensure_unlocked(opened(upgradeLock=lock), 0)
    ensure_unlocked(opened(), 0)


def test_blobcfg_survives_the_round_trip_and_half_of_it_is_none() -> None:
    lock = ObjectLock("COMPLIANCE", 48 * 60 * MINUTE)
    assert parse_blobcfg(build_blobcfg(lock, ID, KEY), ID, KEY) == lock
    assert parse_blobcfg(build_blobcfg(None, ID, KEY), ID, KEY) is None
    assert parse_blobcfg(seal_format_part(KEY, ID, b'{"retentionMode":"COMPLIANCE"}'), ID, KEY) is None
    assert lock.retention(5).until_ns == 48 * 60 * MINUTE + 5


@pytest.mark.parametrize(
    "sealed", [b"", bytes(100), build_blobcfg(None, ID, b"1" * 32)], ids=["empty", "zeros", "other"]
)
def test_a_blobcfg_that_does_not_decrypt_blocks_the_opening(sealed: bytes) -> None:
    with pytest.raises(CorruptFormat, match=r"kopia\.blobcfg.*interrupted"):
        parse_blobcfg(sealed, ID, KEY)


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_only_named_errors(data: bytes) -> None:
    for parse in (
        lambda: parse_envelope(data),
        lambda: open_format(parse_envelope(blob_around(data)), KEY),
        lambda: parse_blobcfg(seal_format_part(KEY, ID, data), ID, KEY),
    ):
        with contextlib.suppress(LighterageError):
            parse()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from([*INNER, "ecc", "upgradeLock", "requiredFeatures", "maxPackSize"]), json_values))
def test_arbitrary_values_open_or_raise_only_named_errors(changes: dict[str, Any]) -> None:
    try:
        found = opened(**changes)
    except RepositoryError:
        return
    assert found.max_pack_size > 0 and 1 <= found.version <= 3


@pytest.mark.parametrize(
    "changes",
    [
        {"min_epoch_duration": MINUTE},
        {"epoch_refresh_frequency": 600 * MINUTE},
        {"epoch_refresh_frequency": 0},
        {"full_checkpoint_frequency": 0},
        {"cleanup_safety_margin": 30 * MINUTE},
        {"epoch_advance_on_count_threshold": 9},
        {"epoch_advance_on_total_size_bytes_threshold": 1},
    ],
)
def test_epoch_parameters_that_kopia_refuses_are_refused(changes: dict[str, int]) -> None:
    fields = {name: getattr(DEFAULT_EPOCH_PARAMETERS, name) for name in EpochParameters.__struct_fields__}
    EpochParameters(**fields).check()
    EpochParameters().check()
    with pytest.raises(UsageError):
        EpochParameters(**(fields | changes)).check()
