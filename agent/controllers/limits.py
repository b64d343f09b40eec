"""What all jobs of a node may take together, in parts that are fair: rates, requests, memory."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent.controllers.moving import Work
from agent.kube.agent_config import AgentLimits


def jobs_at_once(concurrency: int, limits: AgentLimits) -> int:
    """How many jobs a node runs at once: as many as configured, and as their workers have memory for; at least one."""
    if not (limits.memory_bytes and limits.worker_memory_bytes):
        return max(1, concurrency)
    return max(1, min(concurrency, limits.memory_bytes // limits.worker_memory_bytes))


def share_rates(limits: AgentLimits, works: Iterable[Work]) -> None:
    """Give each job that moves its part: of what is sent, backups only share; restores send nothing to speak of."""
    running = [work for work in works if work.outcome is None and not work.is_paused]
    backups = sum(work.is_backup for work in running)
    for work in running:
        given, senders = work.spec.limits, backups if work.is_backup else 1
        work.set_limits(
            msgspec.structs.replace(
                given,
                upload_bytes=_part(limits.upload_bytes_per_second, senders, given.upload_bytes),
                download_bytes=_part(limits.download_bytes_per_second, len(running), given.download_bytes),
                requests=_part(limits.requests_per_second, len(running), given.requests),
            )
        )


def _part(whole: float, among: int, own: float) -> float:
    """An equal part of a limit of the node, or the job's own limit where that is lower; 0 is no limit."""
    limits = [limit for limit in (whole / max(1, among), own) if limit]
    return min(limits, default=0.0)
