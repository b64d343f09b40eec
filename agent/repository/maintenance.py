"""What maintenance a repository asks for, what ran, and what is due (§8.1, §8.2, §7.5).

Only the owner, a client named in a manifest, runs maintenance; its schedule and history are one sealed blob. Nothing
here runs maintenance: this reads both and says how things stand, and writes the manifest of a new repository.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import msgspec

from agent.base.errors import BlobNotFound, CorruptBlob, CorruptManifest
from agent.base.times import MIN_NS, NANOSECONDS, parse_rfc3339
from agent.repository import gojson
from agent.repository.format_blob import RepositoryFormat
from agent.repository.kdf import open_maintenance_schedule
from agent.storage.base import BlobId, BlobStorage, Buffer

SCHEDULE_BLOB = BlobId("kopia.maintenance")
MANIFEST_LABELS: Mapping[str, str] = {"type": "maintenance"}
DEFAULT_OWNER = "default@default"
"""The identity under which Velero's repository maintenance job runs (§10.3)."""

_HOUR_NS = 3600 * NANOSECONDS
_MAX_SCHEDULE_LENGTH = 16 << 20


class Cycle(msgspec.Struct, frozen=True):
    """One of the two kinds of maintenance."""

    enabled: bool = False
    interval: int = 0
    """Nanoseconds."""


class LogRetention(msgspec.Struct, frozen=True, rename="camel"):
    """How many diagnostic logs are kept; the age is in nanoseconds."""

    max_total_size: int = 0
    max_count: int = 0
    max_age: int = 0


class MaintenanceParameters(msgspec.Struct, frozen=True, rename="camel"):
    """The maintenance manifest."""

    owner: str = ""
    """`user@host` of the client that runs maintenance; empty when nobody does."""
    quick: Cycle = Cycle()
    full: Cycle = Cycle()
    log_retention: LogRetention = LogRetention()
    extend_object_locks: bool = False
    list_parallelism: int = 0


def default_parameters(owner: str, *, full_interval_ns: int = 24 * _HOUR_NS) -> MaintenanceParameters:
    """The parameters of a repository that kopia or Velero creates."""
    return MaintenanceParameters(
        owner=owner,
        quick=Cycle(enabled=True, interval=_HOUR_NS),
        full=Cycle(enabled=True, interval=full_interval_ns),
        log_retention=LogRetention(1 << 30, 10_000, 30 * 24 * _HOUR_NS),
    )


def encode_parameters(parameters: MaintenanceParameters) -> bytes:
    """The JSON of the manifest."""
    return gojson.encode(parameters)


_PARAMETERS = msgspec.json.Decoder(MaintenanceParameters)


def parse_parameters(data: Buffer) -> MaintenanceParameters:
    """The manifest's parameters. Raises `CorruptManifest`. Without manifest: `default_parameters("")`."""
    return gojson.decode(_PARAMETERS, data, "the maintenance manifest", CorruptManifest)


class TaskRun(msgspec.Struct, frozen=True):
    """One run of one task; unix nanoseconds."""

    start_ns: int
    end_ns: int
    success: bool
    error: str


class Schedule(msgspec.Struct, frozen=True):
    """`kopia.maintenance`: when each cycle comes next, None for as soon as possible, and what ran, newest first."""

    next_quick_ns: int | None = None
    next_full_ns: int | None = None
    runs: Mapping[str, Sequence[TaskRun]] = msgspec.field(default_factory=dict)


class Due(enum.Enum):
    """What the owner would run now."""

    NOTHING = "nothing"
    QUICK = "quick"
    FULL = "full"


class _RunJson(msgspec.Struct, frozen=True):
    start: str
    end: str
    success: bool = False
    error: str = ""


class _ScheduleJson(msgspec.Struct, frozen=True, rename="camel"):
    next_full_maintenance: str = ""
    next_quick_maintenance: str = ""
    runs: dict[str, list[_RunJson] | None] | None = None


_SCHEDULE = msgspec.json.Decoder(_ScheduleJson)


def parse_schedule(plaintext: Buffer) -> Schedule:
    """The schedule from its decrypted JSON. Raises `CorruptBlob`."""
    parsed = gojson.decode(_SCHEDULE, plaintext, SCHEDULE_BLOB, CorruptBlob)
    try:
        return Schedule(
            _next_time(parsed.next_quick_maintenance),
            _next_time(parsed.next_full_maintenance),
            {
                task: tuple(
                    TaskRun(parse_rfc3339(run.start), parse_rfc3339(run.end), run.success, run.error)
                    for run in runs or ()
                )
                for task, runs in (parsed.runs or {}).items()
            },
        )
    except ValueError as error:
        raise CorruptBlob(f"{SCHEDULE_BLOB} holds a time that is none: {error}") from error


async def read_schedule(storage: BlobStorage, repository_format: RepositoryFormat) -> Schedule:
    """The schedule as it stands in storage; an empty one when nothing ran yet. Raises `CorruptBlob`."""
    try:
        length = (await storage.stat(SCHEDULE_BLOB)).length
        if length > _MAX_SCHEDULE_LENGTH:
            raise CorruptBlob(f"{SCHEDULE_BLOB} in {storage.location} has {length} bytes, far more than it can need")
        sealed = await storage.get(SCHEDULE_BLOB)
    except BlobNotFound:
        return Schedule()
    return parse_schedule(open_maintenance_schedule(repository_format.maintenance_key, bytes(sealed)))


def due(parameters: MaintenanceParameters, schedule: Schedule, now_ns: int) -> Due:
    """What the owner would run now, by kopia's rule: full before quick."""
    if parameters.full.enabled and _reached(schedule.next_full_ns, now_ns):
        return Due.FULL
    if parameters.quick.enabled and _reached(schedule.next_quick_ns, now_ns):
        return Due.QUICK
    return Due.NOTHING


def _reached(next_ns: int | None, now_ns: int) -> bool:
    return next_ns is None or now_ns >= next_ns


def _next_time(text: str) -> int | None:
    """Go's zero time, which stands for never planned, lies before all that nanoseconds can hold."""
    if not text:
        return None
    time_ns = parse_rfc3339(text)
    return None if time_ns == MIN_NS else time_ns
