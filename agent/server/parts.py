"""What an agent is made of, put together from what its start found out. Nothing runs in here."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Protocol

import msgspec
from msgspec.structs import replace

from agent.base.clock import Clock
from agent.controllers.context import NodeLiveness, Timing
from agent.controllers.controllers import ControllerOptions, Controllers, Exposers
from agent.controllers.job import Job
from agent.controllers.status import Definitions, EventSink
from agent.exposers.csi_snapshot import CsiSnapshotExposer
from agent.exposers.host_path import HostPods
from agent.exposers.leftovers import JobExposers, Leftovers
from agent.exposers.pod_volume import PodVolumeBackupExposer, PodVolumeRestoreExposer
from agent.exposers.restore import GenericRestoreExposer
from agent.exposers.settings import ExposerSettings
from agent.jobs.callbacks import JobTelemetry
from agent.jobs.objects import ObjectJobs
from agent.kube.agent_config import AgentConfig, AgentLimits
from agent.kube.api import KubeApi
from agent.kube.pod_volume_backup import PodVolumeBackup
from agent.kube.pod_volume_restore import PodVolumeRestore
from agent.kube.reviews import Reviewer
from agent.movers.runner import WorkRunner
from agent.observe.log import Logging
from agent.observe.metrics import Metrics
from agent.observe.tracing import Tracing
from agent.server.capacity import Capacity
from agent.server.early_checks import early_check
from agent.server.flags import AgentFlags
from agent.server.live_configuration import LiveConfiguration
from agent.server.runners import AgentRunners
from agent.server.self_test import SelfTest
from agent.server.sweeping import CountedSweeps


class LocalWorkers(WorkRunner, Protocol):
    """The workers of this agent (`agent.movers.supervisor.Movers`)."""

    async def warm_up(self) -> None:
        """Be ready for the first job."""
        ...


class Basis(msgspec.Struct, frozen=True, kw_only=True):
    """What everything of one agent needs."""

    api: KubeApi
    clock: Clock
    rng: random.Random
    environ: Mapping[str, str]
    flags: AgentFlags
    logging: Logging
    metrics: Metrics
    tracing: Tracing = msgspec.field(default_factory=Tracing)
    reviewer: Reviewer | None = None
    """Who knows callers of the control API; None: nobody can be admitted but through the socket."""


def exposer_settings(basis: Basis, config: LiveConfiguration, test: SelfTest, cache_limit_mb: int) -> ExposerSettings:
    """The surroundings of all exposers; `cache_limit_mb` is what Velero allows the cache of a repository (§4.2)."""
    return ExposerSettings(
        api=basis.api,
        clock=basis.clock,
        node=basis.flags.node,
        namespace=basis.flags.namespace,
        config=config,
        volumes=HostPods(basis.flags.host_pods),
        sees_host_pods=test.host_pods,
        mover_account=basis.flags.mover_service_account,
        cache_limit_mb=cache_limit_mb,
    )


def all_exposers(settings: ExposerSettings) -> Exposers:
    """How each kind gets at its volumes."""
    return Exposers(
        data_upload=CsiSnapshotExposer(settings),
        data_download=GenericRestoreExposer(settings),
        pod_volume_backup=PodVolumeBackupExposer(settings),
        pod_volume_restore=PodVolumeRestoreExposer(settings),
    )


def leftovers(settings: ExposerSettings, exposers: Exposers, metrics: Metrics) -> CountedSweeps:
    """Who finds what agents left behind."""
    by_kind = JobExposers(
        uploads=exposers.data_upload,
        downloads=exposers.data_download,
        backups=exposers.pod_volume_backup,
        restores=exposers.pod_volume_restore,
    )
    return CountedSweeps(Leftovers(settings, by_kind), metrics)


def object_jobs(basis: Basis, config: LiveConfiguration) -> ObjectJobs:
    """From objects, and from what callers ask, to jobs."""
    return ObjectJobs(
        basis.api,
        basis.flags.namespace,
        basis.clock,
        lambda: replace(config(), limits=AgentLimits()),  # controllers share the node's limits among running jobs
        environ=basis.environ,
        cache_dir=basis.flags.cache_dir,
        hide=basis.logging.redaction.hide,
    )


def controllers(
    basis: Basis,
    config: LiveConfiguration,
    test: SelfTest,
    *,
    exposers: Exposers,
    sweeps: CountedSweeps,
    capacity: Capacity,
    workers: WorkRunner,
    definitions: Definitions,
    events: EventSink,
    nodes: NodeLiveness,
) -> Controllers:
    """The four controllers with all that they call."""
    flags = basis.flags
    jobs = object_jobs(basis, config)
    options = ControllerOptions(
        node=flags.node,
        namespace=flags.namespace,
        concurrency=capacity.concurrency,
        limits=capacity.limits,
        prepare_queue_length=config().load_concurrency.prepare_queue_length,
        pod_volumes=test.pod_volumes,
        timing=Timing(prepare=flags.prepare_timeout),
        check=early_check(jobs),
        time_limit=lambda job: time_limit(config(), job),
        callbacks=JobTelemetry(basis.metrics).callbacks_for,
    )
    return Controllers(
        basis.api,
        basis.clock,
        basis.rng,
        options,
        exposers=exposers,
        runners=AgentRunners(local=workers, api=basis.api, clock=basis.clock, rng=basis.rng, namespace=flags.namespace),
        jobs=jobs,
        definitions=definitions,
        events=events,
        nodes=nodes,
        leftovers=sweeps,
        tracing=basis.tracing,
    )


def time_limit(config: AgentConfig, job: Job) -> float:
    """Seconds that a job may run: for pod volumes what the configuration says; Velero's server ends the others."""
    return config.pod_volume_timeout if isinstance(job, PodVolumeBackup | PodVolumeRestore) else 0.0
