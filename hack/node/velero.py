"""Unmodified Velero with its plug-in for AWS, and the node agent: the stock one or ours.

Velero and its own agent are what `velero install --use-node-agent` makes; our agent is what users apply.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from hack.images.catalog import IMAGES
from hack.node.agents import Object, container, our_agent, stock_agent, velero_install
from hack.node.daemons import StartFailed, say, wait_until
from hack.node.images import import_image
from hack.node.layout import NODE_IP, S3_ACCESS_KEY, S3_BUCKET, S3_PORT, S3_SECRET_KEY, Layout
from hack.node.tools import tool

AGENTS: Final = ("lighterage", "stock")
_SERVER_OPTIONS: Final = (
    "--item-operation-sync-frequency=1s",
    "--concurrent-backups=4",
    # The server works on one repository at a time: in an hour tests make dozens, and then each would be due.
    "--default-repo-maintain-frequency=24h",
    "--garbage-collection-frequency=10s",
)
"""Velero asks after data movement every ten seconds by default, which hides what the agent takes; it makes one backup
after the other, which would let tests wait for one another; and it looks for expired ones once an hour."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to install: a cluster, and an S3 server that its pods and its users reach under one address."""

    kubeconfig: Path
    s3_url: str
    secret_file: Path
    """Written: the credentials of the server."""


def main() -> None:
    """`python -m hack.node.velero AGENT`, inside the namespaces: images, Velero, agent."""
    layout = Layout.of_environment()
    target = Target(layout.kubeconfig(), f"http://{NODE_IP}:{S3_PORT}", layout.run / "cloud-credentials")
    try:
        digests = {name: import_image(layout, name) for name in IMAGES}
        install(target, sys.argv[1], agent_digest=digests["agent"])
    except (StartFailed, subprocess.CalledProcessError) as error:
        say(f"FAILED: {error}")
        raise SystemExit(1) from error


def install(target: Target, agent: str, *, agent_digest: str) -> None:
    """Install or change what is there, and wait until all of it works. Raises `StartFailed`."""
    wait_until("the bucket is there", 60, lambda: _bucket_exists(target.s3_url))
    target.secret_file.touch(mode=0o600)
    target.secret_file.write_text(
        f"[default]\naws_access_key_id={S3_ACCESS_KEY}\naws_secret_access_key={S3_SECRET_KEY}\n"
    )
    objects = list(_velero(target))
    definitions = [found for found in objects if found["kind"] == "CustomResourceDefinition"]
    _apply(target, definitions)
    kubectl(target.kubeconfig, "wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    _apply(target, [found for found in objects if found["kind"] != "CustomResourceDefinition"])
    node_agent = _agent(target, agent, agent_digest)
    _make_room(target, node_agent)
    _apply(target, node_agent)
    for what in ("deployment/velero", "daemonset/node-agent"):
        started = time.monotonic()
        kubectl(target.kubeconfig, "--namespace=velero", "rollout", "status", what, "--timeout=120s")
        say(f"{time.monotonic() - started:5.1f} s  {what} runs")
    available = ["wait", "--for=jsonpath={.status.phase}=Available", "backupstoragelocation/default", "--timeout=60s"]
    kubectl(target.kubeconfig, "--namespace=velero", *available)
    say("       the backup storage location is Available")


def _velero(target: Target) -> Iterator[Object]:
    """All but the agent."""
    location = f"region=us-east-1,s3ForcePathStyle=true,s3Url={target.s3_url}"
    made = velero_install(
        target.kubeconfig,
        "--provider=aws",
        f"--bucket={S3_BUCKET}",
        f"--secret-file={target.secret_file}",
        f"--backup-location-config={location}",
    )
    for found in made:
        if found["kind"] == "Deployment":
            container(found)["args"] += _SERVER_OPTIONS
        if found["kind"] != "DaemonSet":
            yield found


def _agent(target: Target, agent: str, digest: str) -> list[Object]:
    if agent == "stock":
        return [stock_agent(target.kubeconfig)]
    objects = our_agent()
    for found in objects:
        if found["kind"] == "DaemonSet":
            # A new image under the same name makes new pods.
            found["spec"]["template"]["metadata"].setdefault("annotations", {})["lighterage.test/digest"] = digest
    return objects


def _make_room(target: Target, agent: list[Object]) -> None:
    """An agent of the other kind goes first: of two DaemonSets that were merged neither would be tried."""
    place = ("--namespace=velero", "daemonset", "node-agent", "--ignore-not-found")
    account = "{.spec.template.spec.serviceAccountName}"
    there = kubectl(target.kubeconfig, "get", *place, f"--output=jsonpath={account}").strip()
    (wanted,) = (found for found in agent if found["kind"] == "DaemonSet")
    if there not in {"", wanted["spec"]["template"]["spec"]["serviceAccountName"]}:
        kubectl(target.kubeconfig, "delete", *place, "--cascade=foreground")


def _bucket_exists(url: str) -> bool:
    """Make it if it is not there."""
    config = Config(connect_timeout=2, read_timeout=5, retries={"max_attempts": 0}, s3={"addressing_style": "path"})
    session = botocore.session.get_session()
    session.set_credentials(S3_ACCESS_KEY, S3_SECRET_KEY)
    client = session.create_client("s3", region_name="us-east-1", endpoint_url=url, config=config)
    try:
        client.create_bucket(Bucket=S3_BUCKET)
        client.list_objects_v2(Bucket=S3_BUCKET, MaxKeys=1)
    except ClientError as error:
        return error.response["Error"]["Code"] in {"BucketAlreadyExists", "BucketAlreadyOwnedByYou"}
    except BotoCoreError:
        return False
    return True


def _apply(target: Target, objects: list[Object]) -> None:
    document = {"apiVersion": "v1", "kind": "List", "items": objects}
    apply = ("apply", "--server-side", "--force-conflicts", "--filename=-")
    kubectl(target.kubeconfig, *apply, given=json.dumps(document))


def kubectl(kubeconfig: Path, *arguments: str, given: str = "") -> str:
    """What it prints. Raises `StartFailed` with what it said."""
    command = [str(tool("kubectl")), f"--kubeconfig={kubeconfig}", *arguments]
    done = subprocess.run(
        command, input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise StartFailed(f"kubectl {' '.join(arguments)}: {done.stdout.strip()[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
