"""Policies: what the manifests of a repository say about how a source is backed up (§7.5, §14.10).

Upload asks for the policy tree of a source, retention for its effective policy. Everything here is pure: whoever has
the repository hands over the labels and JSON of the policy manifests, in kopia's order (oldest first).
Unknown keys are ignored; `actions`, `logging` and `osSnapshots` are not acted on and therefore not read.
"""

from __future__ import annotations

import bisect
import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from agent.base.errors import InvalidPolicy
from agent.snapshots.model import Source

Int: TypeAlias = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
NO_COMPRESSION = "none"


class RetentionPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """How many snapshots to keep; None: the next policy decides."""

    keep_latest: Int | None = None
    keep_hourly: Int | None = None
    keep_daily: Int | None = None
    keep_weekly: Int | None = None
    keep_monthly: Int | None = None
    keep_annual: Int | None = None
    ignore_identical_snapshots: bool | None = None


class FilesPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """What is left out of a backup."""

    ignore: tuple[str, ...] = ()
    no_parent_ignore: bool = False
    ignore_dot_files: tuple[str, ...] = ()
    no_parent_dot_files: bool = False
    ignore_cache_dirs: bool | None = None
    max_file_size: Int = 0
    one_file_system: bool | None = None


class ErrorHandlingPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """Which failures do not make a snapshot a failed one."""

    ignore_file_errors: bool | None = None
    ignore_directory_errors: bool | None = None
    ignore_unknown_types: bool | None = None


class TimeOfDay(msgspec.Struct, frozen=True, order=True):
    """A time of the local day."""

    hour: Int = 0
    minute: Int = msgspec.field(default=0, name="min")


class SchedulingPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """When snapshots are taken."""

    interval_seconds: Int = 0
    time_of_day: tuple[TimeOfDay, ...] = ()
    no_parent_time_of_day: bool = False
    manual: bool = False
    cron: tuple[str, ...] = ()
    run_missed: bool | None = None


class CompressionPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """Which files are compressed, and how."""

    compressor_name: str = ""
    only_compress: tuple[str, ...] = ()
    no_parent_only_compress: bool = False
    never_compress: tuple[str, ...] = ()
    no_parent_never_compress: bool = False
    min_size: Int = 0
    max_size: Int = 0

    @property
    def is_for_some_only(self) -> bool:
        """Whether it depends on a file's name or size how it is compressed."""
        if self.compressor_name in (NO_COMPRESSION, ""):
            return False
        return bool(self.min_size > 0 or self.max_size > 0 or self.only_compress or self.never_compress)

    def compressor_for(self, name: bytes, size: int) -> str:
        """The compressor for a file, empty for none. As in kopia, `onlyCompress` leaves out no other extension."""
        if self.compressor_name in (NO_COMPRESSION, ""):
            return ""
        if 0 < self.min_size > size or 0 < self.max_size < size:
            return ""
        if not (self.only_compress or self.never_compress):
            return self.compressor_name
        dot = name.rfind(b".")
        extension = os.fsdecode(name[dot:]) if dot >= 0 else ""
        if not _is_listed(extension, self.only_compress) and _is_listed(extension, self.never_compress):
            return ""
        return self.compressor_name


class MetadataCompressionPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """How directories are compressed."""

    compressor_name: str = ""

    @property
    def compressor(self) -> str:
        """The compressor, empty for none."""
        return "" if self.compressor_name == NO_COMPRESSION else self.compressor_name


class SplitterPolicy(msgspec.Struct, frozen=True):
    """How files are cut; empty: as the repository says."""

    algorithm: str = ""


class UploadPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """How much goes on at once."""

    max_parallel_snapshots: Int | None = None
    max_parallel_file_reads: Int | None = None
    parallel_upload_above_size: Int | None = None


class Policy(msgspec.Struct, frozen=True, rename="camel"):
    """One policy, as defined or as merged."""

    retention: RetentionPolicy = RetentionPolicy()
    files: FilesPolicy = FilesPolicy()
    error_handling: ErrorHandlingPolicy = ErrorHandlingPolicy()
    scheduling: SchedulingPolicy = SchedulingPolicy()
    compression: CompressionPolicy = CompressionPolicy()
    metadata_compression: MetadataCompressionPolicy = MetadataCompressionPolicy()
    splitter: SplitterPolicy = SplitterPolicy()
    upload: UploadPolicy = UploadPolicy()
    no_parent: bool = False


DEFAULT_POLICY = Policy(
    retention=RetentionPolicy(10, 48, 7, 4, 24, 3, False),
    files=FilesPolicy(ignore_dot_files=(".kopiaignore",)),
    error_handling=ErrorHandlingPolicy(False, False, True),
    scheduling=SchedulingPolicy(run_missed=True),
    compression=CompressionPolicy(NO_COMPRESSION),
    metadata_compression=MetadataCompressionPolicy("zstd-fastest"),
    upload=UploadPolicy(1, None, 2 << 30),
)
"""What holds where no policy says otherwise."""


class PolicyTree(msgspec.Struct, frozen=True):
    """The policies of a source and of the directories below it."""

    effective: Policy
    """What holds in this directory."""
    defined: Policy | None
    """The same when it is this directory's own, None when it is inherited."""
    _children: Mapping[str, PolicyTree] = msgspec.field(default_factory=dict)

    def child(self, name: str) -> PolicyTree:
        """The node of a directory below this one."""
        found = self._children.get(name)
        if found is not None:
            return found
        if self.defined is None and not self._children:
            return self
        return PolicyTree(self.effective, None)


def parse_policy(data: bytes) -> Policy:
    """One policy from its JSON: unknown keys ignored, keys in any case, `null` as absent (§7.4).

    Raises `InvalidPolicy` for anything that is no object or holds a value of a wrong type.
    """
    try:
        return msgspec.convert(_canonical(msgspec.json.decode(data), Policy), Policy)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPolicy(f"a policy cannot be understood: {error}", hint="set this policy again") from error


def policy_labels(source: Source) -> dict[str, str]:
    """The labels of the policy for a source; empty parts of it make it one for the user, the host, or everything."""
    if source.path:
        kind, names = "path", {"username": source.user, "hostname": source.host, "path": source.path}
    elif source.user:
        kind, names = "user", {"username": source.user, "hostname": source.host}
    elif source.host:
        kind, names = "host", {"hostname": source.host}
    else:
        kind, names = "global", {}
    return {"type": "policy", "policyType": kind, **names}


def effective_policy(manifests: Iterable[tuple[Mapping[str, str], bytes]], source: Source) -> Policy:
    """The merged policy of a source from the (labels, JSON) of policy manifests, oldest first.

    Only manifests that matter are parsed. Raises `InvalidPolicy`.
    """
    known = [(dict(labels), data) for labels, data in manifests]
    chain = [parse_policy(data) for wanted in _label_chain(source) for labels, data in known if _has(labels, wanted)]
    return merge_policies(chain)


def policy_tree(manifests: Iterable[tuple[Mapping[str, str], bytes]], source: Source) -> PolicyTree:
    """The merged policy of a source, and below it those that name a directory inside it, raw and unmerged (§14.10).

    Raises `InvalidPolicy`.
    """
    known = [(dict(labels), data) for labels, data in manifests]
    prefix = source.path.removesuffix("/") + "/"
    wanted = {"type": "policy", "policyType": "path", "username": source.user, "hostname": source.host}
    below: dict[tuple[str, ...], Policy] = {}
    for labels, data in known:
        path = labels.get("path", "")
        if _has(labels, wanted) and path.startswith(prefix) and len(path) > len(prefix):
            below[tuple(path[len(prefix) :].split("/"))] = parse_policy(data)
    effective = effective_policy(known, source)
    return _tree(effective, effective, below)


def merge_policies(chain: Sequence[Policy]) -> Policy:
    """Policies from the most specific to the most general, then the default unless `noParent` ends the chain."""
    merged = Policy()
    for policy in chain:
        merged = _merge(merged, policy)
        if policy.no_parent:
            return merged
    return _merge(merged, DEFAULT_POLICY)


def _tree(effective: Policy, defined: Policy | None, below: Mapping[tuple[str, ...], Policy]) -> PolicyTree:
    groups: dict[str, dict[tuple[str, ...], Policy]] = {}
    for path, policy in below.items():
        groups.setdefault(path[0], {})[path[1:]] = policy
    children: dict[str, PolicyTree] = {}
    for name, group in groups.items():
        own = group.pop((), None)
        children[name] = _tree(own or effective, own, group)
    return PolicyTree(effective, defined, children)


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())


def _label_chain(source: Source) -> list[dict[str, str]]:
    """Labels of all policies that can apply, the most specific first."""
    chain: list[dict[str, str]] = []
    path = source.path
    while path:
        chain.append(policy_labels(Source(source.host, source.user, path)))
        above = _parent(path)
        if above == path:
            break
        path = above
    for wider in (Source(source.host, source.user, ""), Source(source.host, "", ""), Source("", "", "")):
        labels = policy_labels(wider)
        if labels not in chain:
            chain.append(labels)
    return chain


def _parent(path: str) -> str:
    """The path one up; the path itself at the top, also of a relative one."""
    if path == "/" or "/" not in path:
        return path
    return posixpath.dirname(path.rstrip("/")) or path


_Part = TypeVar("_Part", bound=msgspec.Struct)


def _merge(merged: Policy, other: Policy) -> Policy:
    return Policy(
        retention=_merge_part(merged.retention, other.retention),
        files=_merge_part(merged.files, other.files),
        error_handling=_merge_part(merged.error_handling, other.error_handling),
        scheduling=_merge_scheduling(merged.scheduling, other.scheduling),
        compression=_merge_compression(merged.compression, other.compression),
        metadata_compression=_merge_part(merged.metadata_compression, other.metadata_compression),
        splitter=_merge_part(merged.splitter, other.splitter),
        upload=_merge_part(merged.upload, other.upload),
    )


def _merge_part(merged: _Part, other: _Part) -> _Part:
    """Each value that still is what it is by default from the other."""
    fields = zip(merged.__struct_fields__, merged.__struct_defaults__, strict=True)
    taken = {name: getattr(other, name) for name, default in fields if getattr(merged, name) == default}
    return msgspec.structs.replace(merged, **taken)


def _merge_compression(merged: CompressionPolicy, other: CompressionPolicy) -> CompressionPolicy:
    only, never = merged.only_compress, merged.never_compress
    if not merged.no_parent_only_compress:
        only = tuple(sorted({*only, *other.only_compress}))
    if not merged.no_parent_never_compress:
        never = tuple(sorted({*never, *other.never_compress}))
    return msgspec.structs.replace(_merge_part(merged, other), only_compress=only, never_compress=never)


def _merge_scheduling(merged: SchedulingPolicy, other: SchedulingPolicy) -> SchedulingPolicy:
    times = merged.time_of_day
    if not merged.no_parent_time_of_day:
        times = tuple(sorted({*times, *other.time_of_day}))
    return msgspec.structs.replace(_merge_part(merged, other), time_of_day=times)


def _is_listed(extension: str, listed: Sequence[str]) -> bool:
    """Kopia searches a list by halves, also one that was never sorted."""
    at = bisect.bisect_left(listed, extension)
    return at < len(listed) and listed[at] == extension


def _canonical(value: Any, struct: type[msgspec.Struct]) -> Any:
    """Keys spelled as the Struct has them, `null` left out."""
    if not isinstance(value, dict):
        return value
    known = {info.encode_name.lower(): info for info in msgspec.structs.fields(struct)}
    result: dict[str, object] = {}
    for key, item in value.items():
        info = known.get(key.lower())
        if info is None or item is None:
            continue
        if isinstance(info.type, type) and issubclass(info.type, msgspec.Struct):
            result[info.encode_name] = _canonical(item, info.type)
        elif info.type == tuple[TimeOfDay, ...] and isinstance(item, list):
            result[info.encode_name] = [_canonical(time, TimeOfDay) for time in item]
        else:
            result[info.encode_name] = item
    return result
