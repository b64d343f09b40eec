"""`JobService`: what agents work on, by pages and as a stream, and how to end it or have it stand still.

A watch looks at all jobs once a second and sends what differs from what it sent last. So nothing piles up for a reader
that is slow: it keeps one state of each job, and the stream waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import msgspec

from agent.base.clock import Clock
from agent.base.errors import ControlJobNotFound, UsageError
from agent.control.contract import Jobs, JobState
from agent.control.job_messages import KINDS, job_message, kind_and_name
from agent.control.paging import PageKey, page, page_size
from agent.control.v1 import jobs_pb2 as pb
from agent.control.v1.jobs_pb2_grpc import JobServiceServicer

_LOOK_SECONDS = 1.0


class JobServicer(JobServiceServicer):
    """For the agent of `node`."""

    def __init__(self, jobs: Jobs, node: str, clock: Clock) -> None:
        self._jobs = jobs
        self._node = node
        self._clock = clock

    async def ListJobs(self, request: pb.ListJobsRequest, context: object) -> pb.ListJobsResponse:
        """Newest first."""
        chosen, token = page(self._chosen(request.filter), _order, page_size(request.page_size), request.page_token)
        return pb.ListJobsResponse(jobs=[job_message(job) for job in chosen], next_page_token=token)

    async def GetJob(self, request: pb.GetJobRequest, context: object) -> pb.GetJobResponse:
        """Raises `ControlJobNotFound`."""
        return pb.GetJobResponse(job=job_message(self._get(*kind_and_name(request.id))))

    async def CancelJob(self, request: pb.CancelJobRequest, context: object) -> pb.CancelJobResponse:
        """Raises what `Jobs.cancel` raises."""
        return pb.CancelJobResponse(job=job_message(await self._jobs.cancel(*kind_and_name(request.id))))

    async def PauseJob(self, request: pb.PauseJobRequest, context: object) -> pb.PauseJobResponse:
        """Raises what `Jobs.pause` raises."""
        state = await self._jobs.pause(*kind_and_name(request.id), paused=True)
        return pb.PauseJobResponse(job=job_message(state))

    async def ResumeJob(self, request: pb.ResumeJobRequest, context: object) -> pb.ResumeJobResponse:
        """Raises what `Jobs.pause` raises."""
        state = await self._jobs.pause(*kind_and_name(request.id), paused=False)
        return pb.ResumeJobResponse(job=job_message(state))

    async def WatchJobs(self, request: pb.WatchJobsRequest, context: object) -> AsyncIterator[pb.WatchJobsResponse]:
        """Until what is watched has ended, if that was asked, or the caller leaves."""
        one = kind_and_name(request.id) if request.HasField("id") else None
        if one is not None:
            self._get(*one)
        until_finished = request.until_finished or one is not None
        sent = _Sent()
        while True:
            now = list(self._chosen(request.filter)) if one is None else list(self._only(*one))
            for message in sent.news(now):
                yield message
            if until_finished and all(job.phase.is_final for job in now):
                return
            await self._clock.sleep(_LOOK_SECONDS)

    def _get(self, kind: str, name: str) -> JobState:
        job = self._jobs.get(kind, name)
        if job is None:
            raise ControlJobNotFound(f"there is no {kind} {name!r}", hint="`lighter agent jobs` lists what there is")
        return job

    def _only(self, kind: str, name: str) -> Iterator[JobState]:
        job = self._jobs.get(kind, name)
        if job is not None:
            yield job

    def _chosen(self, chosen: pb.JobFilter) -> Iterator[JobState]:
        if not set(chosen.kinds) <= KINDS.keys():
            raise UsageError("a filter names a kind that is not known")
        kinds = {KINDS[kind] for kind in chosen.kinds}
        for job in self._jobs.all():
            if (
                (chosen.all_nodes or job.node == self._node)
                and (not kinds or job.kind in kinds)
                and not (chosen.unfinished_only and job.phase.is_final)
            ):
                yield job


class _Sent(msgspec.Struct):
    """What one watcher knows."""

    jobs: dict[tuple[str, str], JobState] = msgspec.field(default_factory=dict)
    caught_up: bool = False

    def news(self, now: list[JobState]) -> Iterator[pb.WatchJobsResponse]:
        """What it does not know yet; taken as sent."""
        there = {(job.kind, job.name): job for job in sorted(now, key=_order)}
        changed = [job for key, job in there.items() if self.jobs.get(key) != job]
        gone = [job for key, job in self.jobs.items() if key not in there]
        self.jobs = there
        for index, job in enumerate(changed):
            last = index == len(changed) - 1
            yield pb.WatchJobsResponse(job=job_message(job), caught_up=last and not self.caught_up)
        if not changed and not self.caught_up:
            yield pb.WatchJobsResponse(caught_up=True)
        self.caught_up = True
        for job in gone:
            yield pb.WatchJobsResponse(job=job_message(job), deleted=True)


def _order(job: JobState) -> PageKey:
    """Newest first, in an order that is the same for every page."""
    created = 0 if job.created is None else int(job.created.timestamp() * 1e6)
    return -created, job.kind, job.name
