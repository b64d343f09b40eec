"""A fake API server in virtual time, and the objects that the daemon reads at its start."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

from agent.base.clock import Clock
from agent.kube.cluster import Node
from agent.kube.codec import JsonObject
from agent.kube.data_upload import CsiSnapshotSpec, DataUpload, DataUploadSpec
from agent.kube.informer import Informer
from agent.kube.meta import ConfigMap, Key, ObjectMeta
from agent.kube.pods import Pod, PodSpec
from agent.kube.resource import (
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    DATA_UPLOADS,
    NODES,
    PODS,
    SERVICE_ACCOUNTS,
)
from agent.server.flags import DEFAULT_MOVER_ACCOUNT
from agent.testing.clock import VirtualClock
from agent.testing.fake_kube import FakeKube

NAMESPACE = "velero"
STATUS = ["message", "startTimestamp", "completionTimestamp", "progress"]
BACKUP_STATUS = [*STATUS, "path", "snapshotID"]
PHASES_1_16 = ["New", "InProgress", "Completed", "Failed"]
PHASES = ["New", "Accepted", "Prepared", "InProgress", "Canceling", "Canceled", "Completed", "Failed"]


class World:
    """The API server, its clock, and what a test waits for."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or VirtualClock()
        self.api = FakeKube(self.clock, random.Random(1))
        self.rng = random.Random(2)

    @asynccontextmanager
    async def running(self, *works: Coroutine[object, object, None]) -> AsyncIterator[None]:
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

    async def until(self, condition: Callable[[], bool], *, within: float) -> None:
        end = self.clock.monotonic() + within
        while not condition():
            assert self.clock.monotonic() < end, "it did not come true in time"
            await self.clock.sleep(0.1)

    def nodes(self) -> Informer[Node]:
        return Informer(self.api, NODES, self.clock, self.rng)

    async def add_node(self, name: str, *, ready: bool = True, labels: dict[str, str] | None = None) -> None:
        node = Node(api_version="v1", kind="Node", metadata=ObjectMeta(name=name, labels=labels or {}))
        await self.api.create(NODES, node)
        await self.set_ready(name, ready)

    async def set_ready(self, name: str, ready: bool) -> None:
        condition: JsonObject = {"type": "Ready", "status": "True" if ready else "Unknown"}
        await self.api.patch(NODES, Key("", name), {"status": {"conditions": [condition]}}, status=True)

    async def label_node(self, name: str, **labels: str) -> None:
        await self.api.patch(NODES, Key("", name), {"metadata": {"labels": {**labels}}})

    async def add_config(self, name: str, text: str) -> None:
        metadata = ObjectMeta(name=name, namespace=NAMESPACE)
        await self.api.create(
            CONFIG_MAPS, ConfigMap(api_version="v1", kind="ConfigMap", metadata=metadata, data={"c": text})
        )

    async def set_config(self, name: str, text: str) -> None:
        await self.api.patch(CONFIG_MAPS, Key(NAMESPACE, name), {"data": {"c": text}})

    async def add_running_pod(
        self,
        name: str,
        node: str,
        *,
        namespace: str = "app",
        labels: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
    ) -> str:
        """Its uid."""
        metadata = ObjectMeta(name=name, namespace=namespace, labels=labels or {}, annotations=annotations or {})
        pod = Pod(api_version="v1", kind="Pod", metadata=metadata, spec=PodSpec(node_name=node))
        created = await self.api.create(PODS, pod)
        await self.api.patch(PODS, created.key, {"status": {"phase": "Running"}}, status=True)
        return created.metadata.uid

    def install(self, minor: int = 18) -> None:
        """The definitions of a Velero server, as far as they are read."""
        data = ["node", "acceptedByNode", "acceptedTimestamp"]
        parent = ["parentSnapshot"] if minor >= 19 else []
        self.add_definition("datauploads", "v2alpha1", PHASES, [*BACKUP_STATUS, *data], ["cancel", *parent])
        self.add_definition("datadownloads", "v2alpha1", PHASES, [*STATUS, *data], ["cancel"])
        phases, spec = (PHASES, ["cancel"]) if minor >= 17 else (PHASES_1_16, [])
        new = ["acceptedTimestamp", "node"] if minor >= 17 else []
        self.add_definition("podvolumerestores", "v1", phases, [*STATUS, *new], spec)
        self.add_definition("podvolumebackups", "v1", phases, [*BACKUP_STATUS, *new[:1]], [*spec, *parent])
        account: JsonObject = {"name": DEFAULT_MOVER_ACCOUNT, "namespace": NAMESPACE}
        self.api.put_raw(SERVICE_ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})

    def add_definition(self, plural: str, version: str, phases: list[str], status: list[str], spec: list[str]) -> None:
        schema: JsonObject = {
            "properties": {
                "spec": {"properties": {name: {"type": "boolean"} for name in spec}},
                "status": {
                    "properties": {"phase": {"type": "string", "enum": list(phases)}}
                    | {name: {"type": "string"} for name in status}
                },
            }
        }
        self.api.put_raw(
            CUSTOM_RESOURCE_DEFINITIONS,
            {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": f"{plural}.velero.io", "uid": f"uid-of-{plural}"},
                "spec": {
                    "group": "velero.io",
                    "versions": [{"name": version, "served": True, "schema": {"openAPIV3Schema": schema}}],
                },
            },
        )


def upload(name: str = "backup-1") -> DataUpload:
    return DataUpload(
        api_version=DATA_UPLOADS.api_version,
        kind="DataUpload",
        metadata=ObjectMeta(name=name, namespace=NAMESPACE, uid=f"uid-of-{name}"),
        spec=DataUploadSpec(
            snapshot_type="CSI",
            csi_snapshot=CsiSnapshotSpec(volume_snapshot="vs", storage_class="sc"),
            source_pvc="data",
            source_namespace="app",
            backup_storage_location="default",
            operation_timeout="10m0s",
        ),
    )
