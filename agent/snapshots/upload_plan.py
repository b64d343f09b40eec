"""How the policy in force stores a file or directory: compression, splitter, parts (§7.5, §10.5)."""

from __future__ import annotations

import msgspec

from agent.repository.compression import ZSTD_FASTEST, header_id_of
from agent.repository.splitter import Splitter, new_splitter
from agent.snapshots.policy import Policy

SMALL_FILE = 128 * 1024
"""Files up to this size are read in batches, unless chunks can be smaller than that."""

MIDDLING_FILE = 4 * 1024 * 1024
"""Files up to this size are read by one thread into one buffer, when the splitter cannot cut them."""


class FilePlan(msgspec.Struct, frozen=True, eq=False):
    """How a file is stored. Compared by identity: `Plans` makes each once, and files are grouped by it."""

    splitter: Splitter
    compression: int = 0
    """Header id (§4.2) or 0."""
    part_size: int = 0
    """Files beyond it are stored in parts of this size; 0: never."""
    whole_objects: bool = False
    """Compression is that of objects (format version 1), so that chunks cannot be written as bare contents."""
    list_compression: int | None = None
    """Header id for lists of chunks; None: the writer's own."""

    @property
    def small_limit(self) -> int:
        """Files up to this size are one chunk and are read in batches."""
        return min(SMALL_FILE, self._whole_limit)

    @property
    def middling_limit(self) -> int:
        """Files up to this size are one chunk and may be written as a content; 0: none larger than `small_limit`."""
        return 0 if self.whole_objects and self.compression else min(MIDDLING_FILE, self._whole_limit)

    @property
    def _whole_limit(self) -> int:
        """The largest size that is neither cut into chunks nor into parts."""
        return min(self.splitter.min_chunk - 1, self.part_size or self.splitter.min_chunk)


class Plans:
    """The plans of one run, each made once."""

    def __init__(self, splitter: str, index_version: int, *, velero: bool = False) -> None:
        """`splitter` is the repository's. Velero's adapter drops compressors and splitters of policies (§10.5)."""
        self.splitter = new_splitter(splitter)
        self._index_version = index_version
        self._velero = velero
        self._plans: dict[tuple[str, str, int, int | None], FilePlan] = {}

    def file(self, policy: Policy, name: bytes, size: int) -> FilePlan:
        """For a file of this name and size."""
        return self._plan(policy, "" if self._velero else policy.compression.compressor_for(name, size))

    def every_file(self, policy: Policy) -> FilePlan | None:
        """For all files under a policy; None when it depends on the file."""
        return self.file(policy, b"", 0) if self._velero or not policy.compression.is_for_some_only else None

    def _plan(self, policy: Policy, compressor: str) -> FilePlan:
        above = policy.upload.parallel_upload_above_size
        lists = self.lists(policy)
        algorithm = "" if self._velero else policy.splitter.algorithm
        key = (compressor, algorithm, above if above and above > 0 else 0, lists)
        plan = self._plans.get(key)
        if plan is None:
            splitter = new_splitter(key[1]) if key[1] else self.splitter
            header = _writable(compressor)
            plan = self._plans[key] = FilePlan(splitter, header, key[2], self._index_version == 1, lists)
        return plan

    def metadata(self, policy: Policy) -> int:
        """The header id for a directory; 0 for none."""
        return 0 if self._velero else _writable(policy.metadata_compression.compressor)

    def lists(self, policy: Policy) -> int | None:
        """The header id for the list above several chunks, of a file or a directory; None: the writer's own, which is
        what Velero's adapter leaves.
        """
        return None if self._velero else self.metadata(policy)


def _writable(compressor: str) -> int:
    """Its header id; what we only read (s2, lz4) is written as fast zstd, which every client reads."""
    return ZSTD_FASTEST if compressor.startswith(("s2-", "lz4")) else header_id_of(compressor)
