"""`lighter forget`: delete snapshots, by id or by the retention rules of a source's policy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import click
import msgspec

from agent.base.errors import CanceledError, UsageError
from agent.cli.connection import Connection, repository_options
from agent.cli.console import json_result, note, plural, print_json, print_table, say, time_text, warn
from agent.cli.identity import parse_source
from agent.cli.selection import choose_snapshot

if TYPE_CHECKING:
    from agent.repository.repository import Repository
    from agent.snapshots.model import Snapshot, Source


class Decision(msgspec.Struct, frozen=True, rename={"snapshot_id": "snapshotID", "start_time": "startTime"}):
    """What becomes of one snapshot."""

    snapshot_id: str
    source: str
    start_time: str
    reasons: Annotated[list[str], msgspec.Meta(description="why it is kept, e.g. `daily-2` or `pinned`")]


class ForgetResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was forgotten, or with `--dry-run` would be."""

    dry_run: bool
    forgotten: list[Decision]
    kept: list[Decision]


class _Judged(msgspec.Struct, frozen=True):
    snapshot: Snapshot
    reasons: tuple[str, ...]
    """Empty: to be forgotten."""


@click.command(
    epilog="\b\nExamples:\n  lighter forget 3f9c2a 81d0be\n"
    "  lighter forget --source root@web1:/srv --apply-policy --dry-run\n"
    "  lighter forget --all-sources --apply-policy --yes"
)
@json_result(ForgetResult)
@click.argument("snapshots", metavar="[SNAPSHOT]...", nargs=-1)
@click.option("--source", "sources", metavar="USER@HOST:/PATH", multiple=True, help="With --apply-policy: this source.")
@click.option("--all-sources", is_flag=True, help="With --apply-policy: every source.")
@click.option("--apply-policy", is_flag=True, help="Forget what the retention rules of the policy do not keep.")
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would be forgotten.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@repository_options
def forget(
    connection: Connection,
    as_json: bool,
    snapshots: tuple[str, ...],
    sources: tuple[str, ...],
    all_sources: bool,
    apply_policy: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Delete snapshots, by id or by retention policy.

    Pinned snapshots are kept. The space comes back when the owner of the maintenance has run it.
    """
    if bool(snapshots) == apply_policy:
        raise UsageError("nothing to forget", hint="name snapshots, or give --source and --apply-policy")
    if apply_policy != bool(sources or all_sources):
        raise UsageError("--apply-policy needs --source or --all-sources, and they need it")

    wanted = None if all_sources else [parse_source(text) for text in sources]
    ask = not (dry_run or yes or as_json) and sys.stdin.isatty()

    async def work(*, only_look: bool) -> list[_Judged]:
        from agent.snapshots.store import forget_snapshots

        async with connection.repository(read_only=only_look) as repository:
            judged = _plan(repository, snapshots, wanted)
            doomed = [item.snapshot for item in judged if not item.reasons]
            if doomed and not only_look:
                async with repository.writer() as writer:
                    await forget_snapshots(writer, doomed)
            return judged

    judged = connection.run(work(only_look=ask or dry_run))
    if ask:
        doomed = [item.snapshot for item in judged if not item.reasons]
        if doomed:
            _confirm(doomed)
            snapshots = tuple(snapshot.id for snapshot in doomed)
            connection.run(work(only_look=False))
    _report(judged, dry_run=dry_run, as_json=as_json)


def _plan(repository: Repository, names: Sequence[str], sources: Sequence[Source] | None) -> list[_Judged]:
    """What becomes of the snapshots of these names, or of these sources by policy, None for all; oldest first."""
    from agent.snapshots.forget import plan_by_name, plan_by_policy
    from agent.snapshots.store import list_sources

    if names:
        plans = [plan_by_name(choose_snapshot(repository, name) for name in names)]
    else:
        chosen = list_sources(repository.manifests) if sources is None else sources
        plans = [plan_by_policy(repository.manifests, source) for source in chosen]
        for source, plan in zip(chosen, plans, strict=True):
            if not (plan.forget or plan.keep):
                warn(f"there are no snapshots of {source}")
    judged = []
    for plan in plans:
        for warning in plan.warnings:
            warn(warning)
        found = [_Judged(snapshot, ()) for snapshot in plan.forget]
        found += [_Judged(k.snapshot, (*k.reasons, *(["pinned"] if k.snapshot.pins else []))) for k in plan.keep]
        judged += sorted(found, key=lambda item: (item.snapshot.start_ns, item.snapshot.end_ns))
    return judged


def _confirm(doomed: Sequence[Snapshot]) -> None:
    """Ask. Raises `CanceledError`."""
    print_table(("FORGET", "TIME", "SOURCE"), [(s.id[:12], time_text(s.start_ns), str(s.source)) for s in doomed])
    if not click.confirm(f"Forget {plural(len(doomed), 'snapshot')}?", err=True):
        raise CanceledError("nothing was forgotten")


def _report(judged: Sequence[_Judged], *, dry_run: bool, as_json: bool) -> None:
    from agent.base.times import format_rfc3339

    if as_json:
        decisions = [
            Decision(i.snapshot.id, str(i.snapshot.source), format_rfc3339(i.snapshot.start_ns), list(i.reasons))
            for i in judged
        ]
        print_json(
            ForgetResult(
                dry_run=dry_run,
                forgotten=[decision for decision in decisions if not decision.reasons],
                kept=[decision for decision in decisions if decision.reasons],
            )
        )
        return
    rows = [
        (
            item.snapshot.id[:12],
            time_text(item.snapshot.start_ns),
            str(item.snapshot.source),
            f"keep: {', '.join(item.reasons)}" if item.reasons else ("would be forgotten" if dry_run else "forgotten"),
        )
        for item in judged
    ]
    if rows:
        print_table(("SNAPSHOT", "TIME", "SOURCE", "DECISION"), rows)
    count = sum(not item.reasons for item in judged)
    if dry_run:
        note(f"{plural(count, 'snapshot')} would be forgotten. Nothing was changed.")
    else:
        say(f"{plural(count, 'snapshot')} forgotten, {len(judged) - count} kept.")
