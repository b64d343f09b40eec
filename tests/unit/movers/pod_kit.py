"""A mover pod in a cluster in memory: its object, a kubelet that reports its end, and the worker loop inside."""

import asyncio
import random
from contextlib import asynccontextmanager, suppress

import msgspec

from agent.base.errors import LighterageError
from agent.kube.data_upload import CsiSnapshotSpec, DataUpload, DataUploadSpec
from agent.kube.meta import Key, ObjectMeta, OwnerReference
from agent.kube.pods import Container, Pod, PodSpec
from agent.kube.resource import DATA_UPLOADS, EVENTS, PODS
from agent.movers.pod_follow import FollowOptions
from agent.movers.pod_protocol import MOVED_RESOURCES
from agent.movers.pod_runner import PodRunner
from agent.movers.pod_worker import PodOptions, PodPlace, PodWorker
from agent.movers.spec import BackupTree, JobSpec, RestoreTree, UrlLocation
from agent.testing.clock import VirtualClock
from agent.testing.fake_kube import FakeKube
from agent.testing.fake_movers import FakeMovers, MoverWorld
from tests.unit.movers.moving_kit import SECRETS, SOURCE

NAMESPACE = "velero"
NAME = "nightly-7x2kq"
KEY = Key(NAMESPACE, NAME)

BACKUP = JobSpec(
    id=NAME,
    work=BackupTree(path="/0f3c", source=SOURCE),
    location=UrlLocation(url="file:///nowhere"),
    cache_dir="/of-the-agent",
)
RESTORE = msgspec.structs.replace(BACKUP, work=RestoreTree(snapshot="ab12", target="/0f3c"))


def running_status():
    return {"phase": "Running", "containerStatuses": [{"name": "main", "state": {"running": {}}}]}


def ended_status(message="", *, exit_code=0, reason="", **fields):
    terminated = {"exitCode": exit_code, "reason": reason, "message": message}
    phase = "Succeeded" if exit_code == 0 else "Failed"
    return {"phase": phase, "containerStatuses": [{"name": "main", "state": {"terminated": terminated}}], **fields}


class PodCluster:
    """One namespace with one DataUpload and its mover pod."""

    def __init__(self, clock=None, script=None):
        self.clock = clock or VirtualClock()
        self.api = FakeKube(self.clock, random.Random(1))
        self.world = MoverWorld() if script is None else MoverWorld(script=lambda _: script)
        self.messages, self.logs = [], []
        self.stopped = asyncio.Event()
        self.out_of_memory = False

    async def create(self, policy="FallbackToLogsOnError"):
        owner = await self.api.create(
            DATA_UPLOADS,
            DataUpload(
                api_version=DATA_UPLOADS.api_version,
                kind="DataUpload",
                metadata=ObjectMeta(name=NAME, namespace=NAMESPACE, finalizers=("velero.io/f",)),
                spec=DataUploadSpec(
                    snapshot_type="CSI",
                    csi_snapshot=CsiSnapshotSpec(volume_snapshot="vs", storage_class="sc"),
                    source_pvc="data",
                    source_namespace="app",
                    backup_storage_location="default",
                    operation_timeout="10m0s",
                ),
            ),
        )
        reference = OwnerReference(
            api_version=owner.api_version, kind=owner.kind, name=NAME, uid=owner.metadata.uid, controller=True
        )
        command = ("lighter", "mover", "run")
        container = Container(name="main", command=command, termination_message_policy=policy)
        await self.api.create(
            PODS,
            Pod(
                api_version="v1",
                kind="Pod",
                metadata=ObjectMeta(name=NAME, namespace=NAMESPACE, owner_references=(reference,)),
                spec=PodSpec(containers=(container,)),
            ),
        )
        await self.status(running_status())
        return self

    async def status(self, status):
        await self.api.patch(PODS, KEY, {"status": status}, status=True)

    async def annotate(self, name, value):
        await self.api.patch(PODS, KEY, {"metadata": {"annotations": {name: value}}})

    async def change_object(self, patch):
        await self.api.patch(DATA_UPLOADS, KEY, patch)

    def annotations(self):
        return self.api.raw(PODS, KEY)["metadata"].get("annotations", {})

    async def events(self):
        page = await self.api.list(EVENTS, NAMESPACE)
        return {event.reason: event for event in page.items}

    async def waited(self, seconds):
        await self.clock.sleep(seconds)

    # the agent

    def runner(self, **options):
        return PodRunner(self.api, self.clock, random.Random(2), KEY, FollowOptions(**options))

    # the pod

    def worker(self, runner=None, **options):
        place = PodPlace(pod=KEY, resource=MOVED_RESOURCES["DataUpload"], name=NAME, node="node1")
        return PodWorker(
            self.api,
            runner or FakeMovers(self.world, self.clock),
            self.clock,
            random.Random(3),
            place,
            secrets=lambda _: SECRETS,
            leave=self.messages.append,
            log=self.logs.append,
            stopped=self.stopped,
            was_out_of_memory=lambda: self.out_of_memory,
            options=PodOptions(**options),
        )

    async def live(self, runner=None, **options):
        """The container's life, and what the kubelet makes of its end."""
        code = 0
        try:
            await self.worker(runner, **options).run()
        except LighterageError as error:
            code = error.exit_status
        with suppress(LighterageError):  # a pod that was deleted
            await self.status(ended_status(self.messages[-1], exit_code=code))

    @asynccontextmanager
    async def pod(self, runner=None, **options):
        """The container runs during the block."""
        task = asyncio.create_task(self.live(runner, **options))
        try:
            yield task
            await asyncio.wait([task])
            if not task.cancelled():  # by the test: the container was killed
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def outcome(cluster, spec=BACKUP, **options):
    """What the job of a pod comes to."""
    async with cluster.runner(**options).job(spec, SECRETS) as work:
        return await work.result()
