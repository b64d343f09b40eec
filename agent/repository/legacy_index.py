"""Which index blobs are in force in a repository without epochs (§5.4).

Format version 1 compacts its `n…` blobs under a log `m…` that names what went in and what came out. `index_set` lists
the blobs, opens the logs, and asks here. Compaction itself is left to kopia.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from agent.base.errors import CorruptIndex, NewerFormat
from agent.repository import gojson
from agent.storage.base import BlobId, BlobMetadata, Buffer

INDEX_PREFIX = "n"
COMPACTION_LOG_PREFIX = "m"
CLEANUP_LOG_PREFIX = "l"
"""Of blobs that name what a later cleanup takes; only kopia's maintenance acts on them."""
POISON_BLOB = BlobId("n00000000000000000000000000000000-repository_unreadable_by_this_kopia_version_upgrade_required")
"""Left by an upgrade to epochs, so that readers of the old kind stop."""


class CompactionLog(msgspec.Struct, frozen=True):
    """One compaction: these index blobs were replaced by those."""

    inputs: Sequence[BlobId]
    outputs: Sequence[BlobId]


class _MetadataJson(msgspec.Struct, frozen=True):
    id: str


class _LogJson(msgspec.Struct, frozen=True, rename="camel"):
    input_metadata: list[_MetadataJson] | None = None
    output_metadata: list[_MetadataJson] | None = None


_DECODER = msgspec.json.Decoder(_LogJson)
_CLEANUP_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse_compaction_log(plaintext: Buffer, blob_id: BlobId) -> CompactionLog:
    """A compaction log from its decrypted JSON. Raises `CorruptIndex`: without it the active set is unknown."""
    log = gojson.decode(_DECODER, plaintext, f"index compaction log {blob_id}", CorruptIndex)
    return CompactionLog(
        tuple(BlobId(blob.id) for blob in log.input_metadata or ()),
        tuple(BlobId(blob.id) for blob in log.output_metadata or ()),
    )


def parse_cleanup_log(plaintext: Buffer, blob_id: BlobId) -> None:
    """Check the decrypted JSON of a cleanup log. Raises `CorruptIndex`."""
    gojson.decode(_CLEANUP_DECODER, plaintext, f"index cleanup log {blob_id}", CorruptIndex)


def select_legacy_index_blobs(listing: Iterable[BlobMetadata], logs: Iterable[CompactionLog]) -> Sequence[BlobMetadata]:
    """The `n…` blobs of `listing` in force, by name: all but the inputs of a log whose outputs are all present.

    Raises `NewerFormat` when the repository was upgraded to epochs since its format was read.
    """
    blobs = {blob.blob_id: blob for blob in listing}
    if POISON_BLOB in blobs:
        raise NewerFormat(
            "the repository was upgraded to a newer format while it was in use",
            hint="open it again; the upgrade ended, or is about to end",
        )
    superseded: set[BlobId] = set()
    for log in logs:
        if all(output in blobs for output in log.outputs):
            superseded.update(log.inputs)
    return [blobs[blob_id] for blob_id in sorted(blobs) if blob_id not in superseded]
