"""What one job may take of what a node may take together."""

from __future__ import annotations

from agent.kube.agent_config import AgentLimits
from agent.movers.spec import RateLimits


def share(limits: AgentLimits, jobs: int) -> RateLimits:
    """Equal parts of the node's rates for each of so many jobs; what is unlimited stays so."""
    jobs = max(jobs, 1)
    return RateLimits(
        upload_bytes=max(limits.upload_bytes_per_second, 0) / jobs,
        download_bytes=max(limits.download_bytes_per_second, 0) / jobs,
        requests=max(limits.requests_per_second, 0) / jobs,
    )
