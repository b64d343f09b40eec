"""`lighter agent status` and `limits`: the agents themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import click
import msgspec

from agent.base.errors import UsageError
from agent.cli.agent_target import Agents, agent_options
from agent.cli.console import json_result, print_json, print_table, size_text
from agent.cli.options import size_value
from agent.cli.run import run

if TYPE_CHECKING:
    from agent.control.v1 import limits_pb2, node_pb2


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One agent."""

    node: str
    version: str
    namespace: Annotated[str, msgspec.Meta(description="Velero's")]
    started: Annotated[str, msgspec.Meta(description="RFC 3339, UTC")]
    ready: bool
    reason: Annotated[str, msgspec.Meta(description="why it is not ready")]
    pod_volumes: Annotated[bool, msgspec.Meta(description="whether pod volumes can be moved there")]
    snapshots: Annotated[bool, msgspec.Meta(description="whether data of CSI snapshots can be moved there")]
    running: Annotated[int, msgspec.Meta(description="jobs that hold a place")]
    paused: Annotated[int, msgspec.Meta(description="those of them whose data stands still")]
    waiting: Annotated[int, msgspec.Meta(description="jobs that wait for one")]
    concurrency: Annotated[int, msgspec.Meta(description="places")]
    bytes_done: Annotated[int, msgspec.Meta(description="of the volumes of jobs that run now")]


class StatusResult(msgspec.Struct, frozen=True):
    """The agents that were asked."""

    agents: list[AgentStatus]


class LimitSet(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Limits of a node; a rate of 0 is no limit, null says nothing."""

    upload_bytes_per_second: int | None
    download_bytes_per_second: int | None
    requests_per_second: int | None
    concurrency: int | None


class LimitsResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What counts on a node, and why."""

    in_force: LimitSet
    set: Annotated[LimitSet, msgspec.Meta(description="what was set on top of the configuration")]
    configured: LimitSet


@click.command(
    epilog="\b\nExamples:\n  lighter agent status\n  lighter agent status --node all --context production\n"
    "  lighter agent status --json --address 10.0.0.4:8087 --address 10.0.0.5:8087 --token-file token"
)
@json_result(StatusResult)
@agent_options
def status(agents: Agents, as_json: bool) -> None:
    """Say what agents are and do now."""

    async def work() -> None:
        answers = await agents.each(lambda client: client.node())
        found = [_status(node) for node in answers.given]
        if as_json:
            print_json(StatusResult(found))
            answers.end()
            return
        headers = (
            "NODE",
            "STATE",
            "RUNNING",
            "PAUSED",
            "WAITING",
            "PLACES",
            "DONE",
            "POD VOLUMES",
            "SNAPSHOTS",
            "VERSION",
        )
        print_table(headers, [_row(one) for one in found], right=(2, 3, 4, 5, 6))
        answers.end()

    run(work())


@click.command(
    epilog="\b\nExamples:\n  lighter agent limits\n  lighter agent limits --upload 5MiB --concurrency 2\n"
    "  lighter agent limits --upload 0          # no limit\n  lighter agent limits --reset"
)
@json_result(LimitsResult)
@click.option("--upload", metavar="SIZE", help="Bytes a second to the object store, of all jobs together; 0: any.")
@click.option("--download", metavar="SIZE", help="Bytes a second from the object store; 0: any.")
@click.option("--requests", type=click.IntRange(0), metavar="N", help="Requests a second; 0: any.")
@click.option("--concurrency", type=click.IntRange(1), metavar="N", help="Jobs at once.")
@click.option("--reset", is_flag=True, help="Back to what the configuration says.")
@agent_options
@click.pass_context
def limits(
    ctx: click.Context,
    agents: Agents,
    as_json: bool,
    upload: str | None,
    download: str | None,
    requests: int | None,
    concurrency: int | None,
    reset: bool,
) -> None:
    """Show what the jobs of a node may take together, or change it while they run.

    What is set counts until the agent ends or --reset.
    """
    from agent.control.v1 import limits_pb2

    change = limits_pb2.Limits(
        upload_bytes_per_second=None if upload is None else size_value(ctx, ctx.command.params[0], upload),
        download_bytes_per_second=None if download is None else size_value(ctx, ctx.command.params[0], download),
        requests_per_second=requests,
        concurrency=concurrency,
    )
    changes = bool(change.ListFields())
    if reset and changes:
        raise UsageError("--reset takes back what was set, so nothing can be set with it")

    async def work() -> None:
        async with agents.only() as client:
            if reset:
                state = await client.reset_limits()
            else:
                state = await (client.set_limits(change) if changes else client.limits())
        result = LimitsResult(
            in_force=_limits(state.in_force), set=_limits(state.set), configured=_limits(state.configured)
        )
        if as_json:
            print_json(result)
        else:
            _print_limits(result)

    run(work())


def _status(node: node_pb2.Node) -> AgentStatus:
    return AgentStatus(
        node=node.name,
        version=node.version,
        namespace=node.namespace,
        started=node.start_time.ToJsonString(),
        ready=node.ready,
        reason=node.not_ready_reason,
        pod_volumes=node.moves_pod_volumes,
        snapshots=node.moves_snapshots,
        running=node.running_jobs,
        paused=node.paused_jobs,
        waiting=node.waiting_jobs,
        concurrency=node.concurrency,
        bytes_done=node.bytes_done,
    )


def _row(one: AgentStatus) -> tuple[str, ...]:
    return (
        one.node,
        "ready" if one.ready else f"not ready: {one.reason}",
        str(one.running),
        str(one.paused),
        str(one.waiting),
        str(one.concurrency),
        size_text(one.bytes_done),
        "yes" if one.pod_volumes else "no",
        "yes" if one.snapshots else "no",
        one.version,
    )


def _limits(given: limits_pb2.Limits) -> LimitSet:
    def value(name: str) -> int | None:
        return int(getattr(given, name)) if given.HasField(name) else None  # type: ignore[arg-type]

    return LimitSet(**{name: value(name) for name in LimitSet.__struct_fields__})


def _print_limits(result: LimitsResult) -> None:
    def rate(value: int | None) -> str:
        return "" if value is None else f"{size_text(value)}/s" if value else "any"

    def count(value: int | None) -> str:
        return "" if value is None else f"{value:,}" if value else "any"

    sets = (result.in_force, result.set, result.configured)
    rows = [
        ("upload", *(rate(one.upload_bytes_per_second) for one in sets)),
        ("download", *(rate(one.download_bytes_per_second) for one in sets)),
        ("requests a second", *(count(one.requests_per_second) for one in sets)),
        ("jobs at once", *(count(one.concurrency) for one in sets)),
    ]
    print_table(("LIMIT", "IN FORCE", "SET", "CONFIGURED"), rows)
