"""Keys, hashes, ciphers and sealed blobs, against bytes that a real kopia wrote."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import AlgorithmUnsupported, CorruptBlob, CorruptContent, CorruptFormat, WrongPassword
from agent.repository import kdf
from agent.repository.encryption import IV_SIZE, ContentCipher
from agent.repository.hashing import HASH_NAMES, new_hasher
from agent.repository.sealer import BlobSealer
from agent.storage.base import BlobId

_AES = "AES256-GCM-HMAC-SHA256"
_CHACHA = "CHACHA20-POLY1305-HMAC-SHA256"
_KEY = b"0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def vectors(golden: Path) -> Any:
    return json.loads((golden / "vectors.json").read_text())


def test_format_blobs_of_kopia_open_and_seal_to_the_same_bytes(vectors: Any) -> None:
    seen = set()
    for vector in vectors["format_blob"]:
        unique_id = bytes.fromhex(vector["unique_id"])
        key = bytes.fromhex(vector["derived_key"])
        if vector["key_algo"] not in seen:
            seen.add(vector["key_algo"])
            assert kdf.derive_password_key(vector["key_algo"], vector["password"], unique_id) == key
        sealed = bytes.fromhex(vector["sealed"])
        plaintext = kdf.open_format_part(key, unique_id, sealed)
        assert plaintext == vector["plaintext"].encode()
        assert kdf.seal_format_part(key, unique_id, plaintext, nonce=sealed[:12]) == sealed
        blobcfg = kdf.open_format_part(key, unique_id, bytes.fromhex(vector["blobcfg_sealed"]))
        assert blobcfg == vector["blobcfg_plaintext"].encode()
    assert {kdf.DEFAULT_KEY_ALGORITHM, kdf.PBKDF2_KEY_ALGORITHM} <= seen


def test_the_wrong_key_raises_wrong_password_or_what_the_caller_chose() -> None:
    sealed = kdf.seal_format_part(_KEY, _KEY, b"{}")
    with pytest.raises(WrongPassword):
        kdf.open_format_part(bytes(32), _KEY, sealed)
    with pytest.raises(CorruptFormat):
        kdf.open_format_part(_KEY, _KEY, sealed[:20], or_raise=CorruptFormat("damaged"))


def test_unknown_and_insecure_key_derivations_are_refused() -> None:
    for algorithm in ("pbkdf2", "", kdf.INSECURE_KEY_ALGORITHM):
        with pytest.raises(AlgorithmUnsupported):
            kdf.derive_password_key(algorithm, "x", _KEY)
    insecure = kdf.derive_password_key(kdf.INSECURE_KEY_ALGORITHM, "x", _KEY, allow_insecure=True)
    assert insecure == hashlib.sha256(b"x").digest()
    with pytest.raises(CorruptFormat):
        kdf.derive_password_key(kdf.DEFAULT_KEY_ALGORITHM, "x", b"short")


def test_hkdf_gives_kopias_values() -> None:
    derived = kdf.hkdf(b"ABCDEFGHIJKLMNOP", b"0123456789012345", b"the-test-purpose", 32)
    assert derived.hex() == "828769ee8969bc37f11dbaa32838f8db6c19daa6e3ae5f5eed2da2d94d8faddb"
    assert (
        kdf.cache_integrity_key(bytes(range(0x40, 0x60)), bytes(range(32))).hex() == "f5d1b6913014e806fcd16c3638a664dd"
    )


def test_maintenance_schedules_of_kopia_open_and_seal_to_the_same_bytes(vectors: Any) -> None:
    for vector in vectors["maintenance_schedule"]:
        key = kdf.maintenance_key(bytes.fromhex(vector["secret_used"]), bytes.fromhex(vector["unique_id"]))
        assert key.hex() == vector["key"]
        sealed = bytes.fromhex(vector["sealed"])
        plaintext = kdf.open_maintenance_schedule(key, sealed)
        assert plaintext == vector["plaintext"].encode()
        assert kdf.seal_maintenance_schedule(key, plaintext, nonce=sealed[:12]) == sealed
        with pytest.raises(CorruptBlob):
            kdf.open_maintenance_schedule(key, sealed[:-1])


def test_contents_of_kopia_hash_open_and_seal_to_the_same_bytes(vectors: Any) -> None:
    hashes, ciphers = set(), set()
    for vector in vectors["contents"]:
        hashes.add(vector["hash"])
        ciphers.add(vector["encryption"])
        plaintext, sealed = bytes.fromhex(vector["plaintext"]), bytes.fromhex(vector["sealed"])
        digest = new_hasher(vector["hash"], bytes.fromhex(vector["secret"]))(plaintext)
        assert digest.hex() == vector["content_id"].lstrip("ghijklmnopqrstuvwxyz")
        iv = digest[-IV_SIZE:]
        master_key = bytes.fromhex(vector["master_key"])
        assert kdf.content_key(master_key).hex() == vector["encryption_key"]
        cipher = ContentCipher(vector["encryption"], master_key, random=lambda size, n=sealed[:12]: n * (size // 12))
        assert cipher.open(sealed, iv) == plaintext
        assert cipher.seal(plaintext, iv) == sealed
    assert hashes == set(HASH_NAMES)
    assert ciphers == {_AES, _CHACHA}


def test_hashes_of_short_secrets_and_all_sizes_agree_with_plain_implementations() -> None:
    assert new_hasher("BLAKE3-256", b"short")(b"hello kopia").hex() == (
        "e163232af84026c92a24901cc2a93c21f478d35b14571e4b7642c1cb9ec3cfd9"
    )
    for secret in (b"", b"k" * 20, b"k" * 200):
        for size in (0, 1, 100, 5000):
            data = bytes(size)
            assert new_hasher("HMAC-SHA256", secret)(data) == hmac.digest(secret, data, "sha256")
            assert new_hasher("HMAC-SHA3-224", secret)(data) == hmac.digest(secret, data, "sha3_224")
    for name in HASH_NAMES:
        hasher = new_hasher(name, _KEY)
        assert len(hasher(memoryview(b"x"))) == hasher.digest_size


def test_unknown_hashes_ciphers_and_impossible_secrets_are_refused_by_name() -> None:
    with pytest.raises(AlgorithmUnsupported, match="MD5"):
        new_hasher("MD5", _KEY)
    with pytest.raises(CorruptFormat):
        new_hasher("BLAKE2B-256", bytes(65))
    with pytest.raises(AlgorithmUnsupported, match="SALSA"):
        ContentCipher("SALSA", _KEY)


@given(st.binary(max_size=300), st.sampled_from([_AES, _CHACHA]), st.sampled_from([16, 28, 32]))
def test_sealing_in_place_equals_sealing_and_opens_again(data: bytes, name: str, iv_size: int) -> None:
    cipher = ContentCipher(name, _KEY)
    iv = bytes(range(iv_size))
    out = memoryview(bytearray(400))
    length = cipher.seal_into(memoryview(data), iv, out)
    assert length == cipher.sealed_length(len(data)) == len(data) + cipher.overhead
    assert cipher.open(out[:length], iv) == data == cipher.open(cipher.seal(data, iv), iv)
    assert out[length:] == bytes(400 - length)


def test_no_nonce_is_used_twice() -> None:
    cipher = ContentCipher(_AES, _KEY)
    assert len({cipher.seal(b"", _KEY[:16])[:12] for _ in range(2000)}) == 2000


@given(st.binary(max_size=60), st.integers(0, 87), st.integers(1, 255))
def test_any_damaged_byte_of_a_content_is_noticed(data: bytes, at: int, mask: int) -> None:
    cipher = ContentCipher(_AES, _KEY)
    sealed = bytearray(cipher.seal(data, _KEY[:16]))
    sealed[at % len(sealed)] ^= mask
    with pytest.raises(CorruptContent):
        cipher.open(sealed, _KEY[:16])
    with pytest.raises(CorruptContent):
        cipher.open(sealed[:27], _KEY[:16])


def test_a_blob_is_named_by_its_hash_and_opens_under_that_name_only() -> None:
    hasher = new_hasher("HMAC-SHA224", _KEY)
    cipher = ContentCipher(_AES, _KEY)
    sealer = BlobSealer(hasher, cipher)
    blob_id, sealed = sealer.name_and_seal("xn3_", b"index", "s0123456789abcdef147-c1")
    assert blob_id == f"xn3_{hasher(b'index').hex()}-s0123456789abcdef147-c1"
    assert sealer.open(blob_id, sealed) == b"index"
    assert sealer.open(BlobId(blob_id.replace("xn3_", "xr0_3_")), sealed) == b"index"
    bare_id, bare = sealer.name_and_seal("m", b"log")
    assert "-" not in bare_id
    assert sealer.open(bare_id, bare) == b"log"
    for wrong in ("xn3_" + "0" * 56 + "-s1", "xn3_", "", "n" + "ab" * 10, "poison-" + "0" * 56, "x" + "zz" * 28):
        with pytest.raises(CorruptBlob):
            sealer.open(BlobId(wrong), sealed)
    with pytest.raises(CorruptBlob):
        sealer.open(blob_id, sealed[:-1])
    with pytest.raises(ValueError, match="dash"):
        sealer.name_and_seal("a-", b"")


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_blob_is_opened_in_place_where_it_can_be_written(kind: type[bytes | bytearray]) -> None:
    sealer = BlobSealer(new_hasher("HMAC-SHA224", _KEY), ContentCipher(_AES, _KEY))
    blob_id, sealed = sealer.name_and_seal("xn3_", b"index" * 1000)
    blob = kind(sealed)
    plaintext = memoryview(sealer.open_in_place(blob_id, blob))
    assert plaintext == b"index" * 1000
    assert (plaintext.obj is blob) == (kind is bytearray)
    with pytest.raises(CorruptBlob, match="does not decrypt"):
        sealer.open_in_place(blob_id, kind(sealed[:-1]))


def test_a_blob_that_decrypts_to_other_bytes_than_its_name_says_is_refused() -> None:
    hasher = new_hasher("BLAKE2B-256", _KEY)
    cipher = ContentCipher(_AES, _KEY)
    digest = hasher(b"what the name says")
    forged = cipher.seal(b"something else", digest[-IV_SIZE:])
    with pytest.raises(CorruptBlob, match="other bytes"):
        BlobSealer(hasher, cipher).open(BlobId(f"s{digest.hex()}-s1"), forged)
