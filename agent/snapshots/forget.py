"""Which snapshots to forget: those that a source's policy expires, or those that somebody named.

`lighter forget` shows the plan (`--dry-run`) or carries it out with `store.forget_snapshots`. A pinned snapshot is
never forgotten, by policy or by name: it has to be unpinned first. Velero pins what it owns.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent.repository.ids import ManifestId
from agent.repository.manifests import ManifestStore
from agent.snapshots.model import Snapshot, Source
from agent.snapshots.policy import effective_policy
from agent.snapshots.retention import Candidate, RetentionRules, judge
from agent.snapshots.store import list_snapshots


class Kept(msgspec.Struct, frozen=True):
    """A snapshot that stays, and why: kopia's retention reasons, and its pins."""

    snapshot: Snapshot
    reasons: tuple[str, ...]


class ForgetPlan(msgspec.Struct, frozen=True):
    """What goes and what stays, newest first; manifests that could not be read are left alone and named."""

    forget: tuple[Snapshot, ...]
    keep: tuple[Kept, ...]
    warnings: tuple[str, ...] = ()


def plan_by_policy(manifests: ManifestStore, source: Source) -> ForgetPlan:
    """Apply the retention rules of a source's effective policy (§7.5). Raises `InvalidPolicy`."""
    found = list_snapshots(manifests, source)
    stored = sorted(manifests.find({"type": "policy"}), key=lambda manifest: manifest.modified_ns)
    policies = ((manifest.labels, manifest.data) for manifest in stored)
    retention = effective_policy(policies, source).retention
    rules = RetentionRules(
        keep_latest=retention.keep_latest,
        keep_hourly=retention.keep_hourly,
        keep_daily=retention.keep_daily,
        keep_weekly=retention.keep_weekly,
        keep_monthly=retention.keep_monthly,
        keep_annual=retention.keep_annual,
    )
    snapshots = {snapshot.id: snapshot for snapshot in found.snapshots}
    verdicts = judge(
        rules,
        [Candidate(s.id, s.start_ns, s.end_ns, not s.incomplete, bool(s.pins)) for s in snapshots.values()],
    )
    by_id = [(snapshots[ManifestId(v.candidate.snapshot_id)], v) for v in verdicts]
    return ForgetPlan(
        forget=tuple(snapshot for snapshot, verdict in by_id if not verdict.keep),
        keep=tuple(Kept(snapshot, verdict.reasons) for snapshot, verdict in by_id if verdict.keep),
        warnings=found.warnings,
    )


def plan_by_name(snapshots: Iterable[Snapshot]) -> ForgetPlan:
    """Forget these snapshots, except those that are pinned."""
    newest_first = sorted({s.id: s for s in snapshots}.values(), key=lambda s: (s.start_ns, s.end_ns), reverse=True)
    return ForgetPlan(
        forget=tuple(s for s in newest_first if not s.pins),
        keep=tuple(Kept(s, ()) for s in newest_first if s.pins),
    )
