"""A small cluster in memory and in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from agent.kube.backoff import Backoff
from agent.kube.data_upload import CsiSnapshotSpec, DataUpload, DataUploadSpec
from agent.kube.informer import Informer, InformerOptions, label_index
from agent.kube.meta import Key, ObjectMeta
from agent.kube.names import BACKUP_NAME_LABEL
from agent.kube.resource import DATA_UPLOADS
from agent.kube.selector import EVERYTHING, Selector
from agent.testing.clock import VirtualClock
from agent.testing.fake_kube import FakeKube

NAMESPACE = "velero"


def upload(name: str, **metadata: object) -> DataUpload:
    return DataUpload(
        api_version=DATA_UPLOADS.api_version,
        kind="DataUpload",
        metadata=ObjectMeta(name=name, namespace=NAMESPACE, **metadata),  # type: ignore[arg-type]
        spec=DataUploadSpec(
            snapshot_type="CSI",
            csi_snapshot=CsiSnapshotSpec(volume_snapshot="vs", storage_class="sc"),
            source_pvc="data",
            source_namespace="app",
            backup_storage_location="default",
            operation_timeout="10m0s",
        ),
    )


def key(name: str) -> Key:
    return Key(NAMESPACE, name)


class Cluster:
    """A fake API server, its clock, and an informer of data uploads whose told keys are kept."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.api = FakeKube(self.clock, random.Random(1))
        self.told: list[str] = []
        self.informer: Informer[DataUpload]

    @asynccontextmanager
    async def running(
        self, *, resync: float = 1e6, page_size: int = 2, selector: Selector = EVERYTHING
    ) -> AsyncIterator[Informer[DataUpload]]:
        self.informer = Informer(
            self.api,
            DATA_UPLOADS,
            self.clock,
            random.Random(2),
            namespace=NAMESPACE,
            selector=selector,
            indexes={"backup": label_index(BACKUP_NAME_LABEL)},
            options=InformerOptions(resync=resync, page_size=page_size, backoff=Backoff(1.0, 30.0, jitter=0.0)),
        )
        self.informer.add_handler(lambda k: self.told.append(k.name))
        task = asyncio.ensure_future(self.informer.run())
        try:
            yield self.informer
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, condition: Callable[[], bool], *, within: float) -> None:
        """Let virtual time go by until `condition` holds."""
        end = self.clock.monotonic() + within
        while not condition():
            assert self.clock.monotonic() < end, "it did not come true in time"
            await self.clock.sleep(0.1)

    def names(self) -> list[str]:
        return sorted(obj.metadata.name for obj in self.informer.store)

    def asked(self, verb: str) -> int:
        return self.api.requests.count((verb, DATA_UPLOADS.name))
