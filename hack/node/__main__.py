"""`hack/cluster`: the commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import click

from hack.images.catalog import IMAGES, build
from hack.node import namespaces
from hack.node.daemons import StartFailed
from hack.node.layout import ROOT, Layout
from hack.node.tools import GO_TOOLS, MissingTool, install_packages, tool
from hack.node.velero import AGENTS

_LAYOUT = Layout.of_environment()


@click.group()
def cluster() -> None:
    """A real Kubernetes node on this machine, without Docker, with Velero and a node agent."""


@cluster.command()
@click.option("--agent", type=click.Choice(AGENTS), default="lighterage", show_default=True, help="The node agent.")
def up(agent: str) -> None:
    """Start the cluster, or bring one that runs up to date; nothing that is done already is done again."""
    started = time.monotonic()
    if os.geteuid() != 0:
        raise click.ClickException("namespaces, mounts and loop devices need root: sudo hack/cluster up")
    try:
        install_packages()
        _step("programs", lambda: [tool(name) for name in GO_TOOLS])
        _step("images", lambda: [build(name, _LAYOUT) for name in IMAGES])
        namespaces.release_all(_LAYOUT)
        if namespaces.init_pid(_LAYOUT) is None:
            for line in namespaces.start(_LAYOUT):
                click.echo(f"  {line}")
        _inside([sys.executable, "-m", "hack.node.velero", agent], PYTHONPATH=str(ROOT))
    except (MissingTool, StartFailed) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"up with the {agent} agent in {time.monotonic() - started:.0f} s; hack/cluster shell gets you in")


def _step(what: str, work: object) -> None:
    started = time.monotonic()
    assert callable(work)
    work()
    click.echo(f"  {time.monotonic() - started:5.1f} s  {what} are there")


def _inside(command: list[str], **environment: str) -> None:
    """Run in the namespaces, and end with its status when that is not 0."""
    seen = {**namespaces.environment(_LAYOUT), **environment}
    done = subprocess.run(namespaces.command_inside(_LAYOUT, command), env=seen, check=False)
    if done.returncode != 0:
        raise SystemExit(done.returncode)


@cluster.command()
@click.option("--purge", is_flag=True, help="Also remove what it kept: volumes, bucket, objects. Images stay.")
@click.option("--lose", is_flag=True, help="Remove all that it kept but the bucket: the next one is another cluster.")
def down(purge: bool, lose: bool) -> None:
    """End every process, pod, mount and device of the cluster."""
    namespaces.end(_LAYOUT)
    for kept in _LAYOUT.run.glob("*") if purge or lose else ():
        if purge or kept != _LAYOUT.bucket:
            shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    click.echo("down" + (", and nothing kept" if purge else ", only the bucket is kept" if lose else ""))


@cluster.command()
def status() -> None:
    """What runs, and what Velero says of itself; status 1 when the cluster is not up."""
    pid = namespaces.init_pid(_LAYOUT)
    if pid is None or not _LAYOUT.ready.exists():
        click.echo("down")
        raise SystemExit(1)
    click.echo(f"up: process {pid}, kept in {_LAYOUT.run}")
    held = {path.name for path in _LAYOUT.held.iterdir()}
    for path in sorted(_LAYOUT.run.glob("*.pid")):
        click.echo(f"  {path.stem:20} {'held down' if path.stem in held else 'runs'}")
    _inside(["kubectl", "--namespace=velero", "get", "pods,backupstoragelocations", "--output=wide"])


@cluster.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...]) -> None:
    """Run COMMAND inside the cluster: with its network, its mounts, kubectl and velero on PATH."""
    _enter(list(command))


@cluster.command()
def shell() -> None:
    """A shell inside the cluster."""
    _enter([os.environ.get("SHELL", "/bin/sh")])


def _enter(command: list[str]) -> None:
    environment = {**namespaces.environment(_LAYOUT)}
    environment.pop("PYTHONPATH", None)
    # Says to tests that they can take processes of the node away (`hold`).
    environment["LIGHTERAGE_CLUSTER_RUN"] = str(_LAYOUT.run)
    try:
        inside = namespaces.command_inside(_LAYOUT, command)
    except StartFailed as error:
        raise click.ClickException(str(error)) from error
    os.execve(inside[0], inside, environment)


@cluster.command()
@click.argument("name", default="node")
@click.option("--follow", "-f", is_flag=True)
def logs(name: str, follow: bool) -> None:
    """The log of NAME: node, a process that `status` lists, or `velero` and `node-agent`, which are pods."""
    if name in {"velero", "node-agent"}:
        workload = "deployment/velero" if name == "velero" else "daemonset/node-agent"
        _enter(["kubectl", "--namespace=velero", "logs", workload, "--container", name, *(["-f"] if follow else [])])
    log = _LAYOUT.logs / f"{name}.log"
    if not log.exists():
        known = ", ".join(sorted(path.stem for path in _LAYOUT.logs.glob("*.log")))
        raise click.ClickException(f"no log of {name}; there are: {known}, velero, node-agent")
    os.execvp("tail", ["tail", "-n", "200", *(["-F"] if follow else []), str(log)])


@cluster.command()
@click.argument("name")
def hold(name: str) -> None:
    """Take the process NAME down and keep it down, as a failure that a test makes."""
    (_LAYOUT.held / name).touch()


@cluster.command()
@click.argument("name")
def release(name: str) -> None:
    """Give back what `hold` took."""
    (_LAYOUT.held / name).unlink(missing_ok=True)


if __name__ == "__main__":
    cluster(prog_name="hack/cluster")
