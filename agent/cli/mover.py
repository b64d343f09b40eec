"""`lighter mover`: what runs in pods that the agent makes; nobody else has a use for it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import click

from agent.cli.options import log_options

if TYPE_CHECKING:
    from agent.movers.protocol import Log

_KINDS = ("DataUpload", "DataDownload", "PodVolumeBackup", "PodVolumeRestore")
_TO_END = (signal.SIGTERM, signal.SIGINT)


@click.group()
def mover() -> None:
    """Run in a pod that the agent made. Nobody needs to call this by hand."""


@mover.command(epilog="\b\nExample:\n  lighter mover run --kind DataUpload --name nightly-7x2kq")
@click.option("--kind", type=click.Choice(_KINDS), required=True, help="Of the object whose data is moved.")
@click.option("--name", metavar="NAME", required=True, help="Of that object, in the namespace of this pod.")
@click.option(
    "--kubeconfig",
    metavar="FILE",
    envvar="KUBECONFIG",
    default="",
    help="How to get at the API server; without it by the pod's service account.  [env: KUBECONFIG]",
)
@log_options
def run(kind: str, name: str, kubeconfig: str, log_level: str, log_format: str) -> None:
    """Wait for the job that the agent gives to this pod, do it, and leave what it came to as termination message.

    The pod's name and node come from POD_NAME and NODE_NAME, its namespace from VELERO_NAMESPACE or the service
    account; the repository's password and the location's credentials from /etc/lighterage. SIGTERM cancels the job,
    which saves what helps the next try.
    """
    import asyncio

    import structlog

    from agent.cli.run import run as run_work
    from agent.movers.pod_main import Surroundings, run_pod
    from agent.observe.log import LogFormat, Logging, LogOptions, worker_level

    logging = Logging(LogOptions(format=LogFormat(log_format), level=log_level))
    logging.install()
    structlog.contextvars.bind_contextvars(kind=kind, name=name)
    logger = structlog.stdlib.get_logger("agent.worker")

    def log(line: Log) -> None:
        logger.log(worker_level(line.level), line.text)

    stopped = asyncio.Event()
    around = Surroundings(environ=os.environ)
    work = run_pod(around, kind, name, stopped=stopped, log=log, hide=logging.redaction.hide, kubeconfig=kubeconfig)

    def stop() -> bool:
        stopped.set()
        return True

    run_work(work, network=True, interrupt=stop)


@mover.command(epilog="\b\nExample:\n  lighter mover hold")
def hold() -> None:
    """Do nothing until SIGTERM: a pod that mounts a volume for a worker elsewhere."""
    # The first process of a container has no default for these signals: it must wait for them itself.
    signal.pthread_sigmask(signal.SIG_BLOCK, _TO_END)
    signal.sigwait(_TO_END)
