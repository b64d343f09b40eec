"""`hack/kind`: what `hack/cluster` runs as processes of a node, as pods on kind. Needs Docker and kind 0.32 or later.

The same images (made without Docker, so nothing is pulled but kind's own node), the same storage classes, Velero, agent
and tests. It is not run by continuous integration.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click

from hack.images.catalog import IMAGES, KIND_IMAGES, build
from hack.node.daemons import StartFailed
from hack.node.layout import MANIFESTS, ROOT, S3_PORT, Layout
from hack.node.storage import s3_configuration, snapshot_definitions
from hack.node.tools import search_path
from hack.node.velero import AGENTS, Target, install, kubectl

_NAME = "lighterage"
_LAYOUT = Layout.of_environment()
_KUBECONFIG = _LAYOUT.base / "kind.kubeconfig"


@click.group()
def kind() -> None:
    """A kind cluster with Velero and the agent in it."""


@kind.command()
@click.option("--agent", type=click.Choice(AGENTS), default="lighterage", show_default=True)
def up(agent: str) -> None:
    """Make the cluster, or bring it up to date."""
    _LAYOUT.base.mkdir(parents=True, exist_ok=True)
    if _NAME not in _kind("get", "clusters").split():
        _kind("create", "cluster", f"--name={_NAME}", f"--kubeconfig={_KUBECONFIG}", "--wait=120s")
    built = {name: build(name, _LAYOUT) for name in IMAGES | KIND_IMAGES}
    for image in built.values():
        _kind("load", "image-archive", f"--name={_NAME}", str(image.archive))
    try:
        for path in snapshot_definitions():
            kubectl(_KUBECONFIG, "apply", f"--filename={path}")
        kubectl(_KUBECONFIG, "wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        kubectl(_KUBECONFIG, "apply", f"--filename={MANIFESTS / 'storage.yaml'}")
        kubectl(_KUBECONFIG, "apply", f"--filename={MANIFESTS / 'kind.yaml'}", f"--filename={_s3_secret()}")
        kubectl(_KUBECONFIG, "--namespace=kube-system", "rollout", "status", "daemonset/csi", "--timeout=120s")
        kubectl(_KUBECONFIG, "--namespace=kube-system", "rollout", "status", "daemonset/s3", "--timeout=120s")
        target = Target(_KUBECONFIG, f"http://{_node_address()}:{S3_PORT}", _LAYOUT.base / "kind-credentials")
        install(target, agent, agent_digest=built["agent"].digest)
    except StartFailed as error:
        raise click.ClickException(str(error)) from error


@kind.command()
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def test(options: tuple[str, ...]) -> None:
    """Run the end-to-end tests; those that take processes of the node away are skipped."""
    environment = {**os.environ, "KUBECONFIG": str(_KUBECONFIG), "PATH": f"{search_path()}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "pytest", "tests/e2e", *options]
    raise SystemExit(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)


@kind.command()
def down() -> None:
    """Delete the cluster."""
    _kind("delete", "cluster", f"--name={_NAME}")


def _kind(*arguments: str) -> str:
    done = subprocess.run(["kind", *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise click.ClickException(f"kind {' '.join(arguments)} failed")
    return done.stdout


def _node_address() -> str:
    """Docker gives it to the machine and to pods alike."""
    return kubectl(_KUBECONFIG, "get", "nodes", "--output=jsonpath={.items[0].status.addresses[0].address}").strip()


def _s3_secret() -> Path:
    """The server's identity as a Secret, in a file for `kubectl apply`."""
    path = _LAYOUT.base / "kind-s3.json"
    metadata = {"name": "s3", "namespace": "kube-system"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"s3.json": s3_configuration()}}
    path.write_text(json.dumps(secret))
    return path


if __name__ == "__main__":
    kind(prog_name="hack/kind")
