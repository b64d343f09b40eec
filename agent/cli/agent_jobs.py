"""`lighter agent jobs`, `cancel`, `pause` and `resume`: the objects that agents work on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli.agent_job import JobInfo, job_id, job_info
from agent.cli.agent_target import Agents, agent_options
from agent.cli.console import json_result, print_json, print_table, say, size_text
from agent.cli.run import run

if TYPE_CHECKING:
    from agent.control.client import ControlClient


class JobsResult(msgspec.Struct, frozen=True):
    """Jobs, newest first."""

    jobs: list[JobInfo]


@click.command(
    epilog="\b\nExamples:\n  lighter agent jobs\n  lighter agent jobs --all-nodes --unfinished --json\n"
    "  lighter agent jobs --node all --unfinished"
)
@json_result(JobsResult)
@click.option("--all-nodes", is_flag=True, help="Also those of other nodes, and of none.")
@click.option("--unfinished", is_flag=True, help="Only those that have not ended.")
@agent_options
def jobs(agents: Agents, as_json: bool, all_nodes: bool, unfinished: bool) -> None:
    """List what agents work on, newest first."""
    from agent.control.v1 import jobs_pb2

    async def work() -> None:
        chosen = jobs_pb2.JobFilter(all_nodes=all_nodes, unfinished_only=unfinished)

        async def ask(client: ControlClient) -> list[JobInfo]:
            return [job_info(job) async for job in client.jobs(chosen)]

        answers = await agents.each(ask)
        found = merged(answers.given)
        if as_json:
            print_json(JobsResult(found))
        else:
            headers = ("JOB", "PHASE", "NODE", "VOLUME", "DONE", "CREATED")
            print_table(headers, [_row(job) for job in found])
        answers.end()

    run(work())


@click.command(epilog="\b\nExample:\n  lighter agent cancel du/nightly-7x2kq")
@json_result(JobInfo)
@click.argument("job", metavar="KIND/NAME")
@agent_options
def cancel(agents: Agents, as_json: bool, job: str) -> None:
    """End a job soon; a backup saves what helps the next one.

    Any agent can be asked: the object is marked, and the agent that works on it ends it.
    """

    async def work() -> None:
        async with agents.only() as client:
            info = job_info(await client.cancel(job_id(job)))
        if as_json:
            print_json(info)
        else:
            say(f"{job} is {info.phase}" + (", its end is requested" if info.cancel_requested else ""))

    run(work())


@click.command(epilog="\b\nExample:\n  lighter agent pause du/nightly-7x2kq")
@json_result(JobInfo)
@click.argument("job", metavar="KIND/NAME")
@agent_options
def pause(agents: Agents, as_json: bool, job: str) -> None:
    """Have the data of a job stand still until it is resumed, within a second.

    The job keeps its place on the node and stays paused when the agent is restarted. Whatever ends a job that runs
    ends one that is paused too: `lighter agent cancel`, and the time limits of Velero.
    """

    async def work() -> None:
        async with agents.only() as client:
            _told(job, job_info(await client.pause(job_id(job))), as_json)

    run(work())


@click.command(epilog="\b\nExample:\n  lighter agent resume du/nightly-7x2kq")
@json_result(JobInfo)
@click.argument("job", metavar="KIND/NAME")
@agent_options
def resume(agents: Agents, as_json: bool, job: str) -> None:
    """Have a paused job go on."""

    async def work() -> None:
        async with agents.only() as client:
            _told(job, job_info(await client.resume(job_id(job))), as_json)

    run(work())


def merged(lists: Sequence[Sequence[JobInfo]]) -> list[JobInfo]:
    """What several agents list, each job once, newest first. What its own agent says of a job goes further."""
    known: dict[tuple[str, str], JobInfo] = {}
    for job in (job for jobs in lists for job in jobs):
        before = known.get((job.kind, job.name))
        if before is None or job.bytes_done > before.bytes_done:
            known[job.kind, job.name] = job
    return sorted(known.values(), key=lambda job: (job.created, job.kind, job.name), reverse=True)


def _told(job: str, info: JobInfo, as_json: bool) -> None:
    if as_json:
        print_json(info)
    else:
        say(f"{job} is {info.state()}")


def _row(job: JobInfo) -> tuple[str, ...]:
    total = f" of {size_text(job.bytes_total)}" if job.bytes_total else ""
    return (
        f"{job.kind}/{job.name}",
        job.state(),
        job.node,
        f"{job.volume_namespace}/{job.volume}",
        f"{size_text(job.bytes_done)}{total}",
        job.created,
    )
