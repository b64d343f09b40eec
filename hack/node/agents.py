"""The node agent in each form in which clusters have it: ours as users apply it, Velero's, ours in Velero's manifest.

The DaemonSets of all of them have one name and one selector, so that each takes the place of the others. Ours brings an
account and rights of its own; Velero's has the account `velero`, which is the server's and stays.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from hack.images.catalog import AGENT, PLUGIN, VELERO
from hack.node.layout import MANIFESTS
from hack.node.tools import tool

Object = dict[str, Any]

OURS: Final = AGENT.removeprefix("docker.io/")
STOCK: Final = VELERO.removeprefix("docker.io/")
OUR_MANIFESTS: Final = MANIFESTS / "agent"
"""A kustomization of `deploy/daemonset`."""
PREPARE_TIMEOUT: Final = "--data-mover-prepare-timeout"
_STOCK_OPTIONS: Final = (f"{PREPARE_TIMEOUT}=40s",)


def our_agent(manifests: Path = OUR_MANIFESTS) -> list[Object]:
    """What the kustomization makes: accounts, rights, DaemonSet."""
    return list(yaml.safe_load_all(_printed("kubectl", "kustomize", str(manifests))))


def stock_agent(kubeconfig: Path, image: str = STOCK) -> Object:
    """The DaemonSet that `velero install --use-node-agent` writes, with an image in the place of Velero's."""
    no_location = ("--no-default-backup-location", "--secret-file=/dev/null")
    (made,) = (found for found in velero_install(kubeconfig, *no_location) if found["kind"] == "DaemonSet")
    found = container(made)
    found["args"] += _STOCK_OPTIONS
    found["image"] = image
    return made


def velero_install(kubeconfig: Path, *options: str) -> list[Object]:
    """What `velero install --use-node-agent` makes, with the options of tests."""
    requests = [f"--{pod}-pod-{kind}-request=0" for pod in ("velero", "node-agent") for kind in ("cpu", "mem")]
    made = _printed(
        "velero",
        f"--kubeconfig={kubeconfig}",
        "install",
        "--dry-run",
        "--output=json",
        f"--image={STOCK}",
        f"--plugins={PLUGIN.removeprefix('docker.io/')}",
        "--use-node-agent",
        "--use-volume-snapshots=false",
        "--features=EnableCSI",
        *requests,
        *options,
    )
    return list(json.loads(made)["items"])


def container(workload: Object) -> Object:
    """The first container of a Deployment or DaemonSet."""
    found: Object = workload["spec"]["template"]["spec"]["containers"][0]
    return found


def _printed(program: str, *arguments: str) -> str:
    done = subprocess.run([tool(program), *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout
