"""What this agent finds missing at its start, and what it does without (contract §3.3, §4.5, §10.2).

The same findings are printed by `lighter agent run --check`, logged, and told in an event. Where the stock agent would
go on, so do we, with less: no pod volumes without the host path or the rights for them, no word about events without
theirs. Where it would not (a kind that is not installed, a host path of something else), neither do we.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from agent.base.errors import KubeForbidden, KubeNotFound
from agent.exposers.made import every
from agent.exposers.settings import has_account
from agent.kube.api import KubeApi
from agent.kube.pods import Pod, PodPhase
from agent.kube.resource import PODS, VOLUME_SNAPSHOT_CONTENTS
from agent.kube.selector import Selector
from agent.server.definitions import ASSUMED_RELEASE, InstalledDefinitions
from agent.server.mounts import MountTable, propagates
from agent.server.rights import RIGHTS, Need, Right

_MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
_REVIEWS_AT_ONCE = 8
_NAMED = 5


class Verdict(StrEnum):
    """What a finding means."""

    OK = "ok"
    LESS = "less"
    """Something is missing, and the agent does without."""
    FATAL = "fatal"
    """The agent cannot work."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    check: str
    verdict: Verdict
    text: str


class SelfTest(msgspec.Struct, frozen=True):
    """All of it."""

    findings: tuple[Finding, ...]
    host_pods: bool
    """Whether the folder of the node's pod volumes is there."""
    pod_volumes: bool
    """Whether PodVolumeBackups and PodVolumeRestores can be done: the folder is there, and so are the rights."""
    snapshots: bool
    """Whether CSI snapshots can be moved."""

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Those that are not as they should be, the worst first."""
        found = [one for one in self.findings if one.verdict is not Verdict.OK]
        return tuple(sorted(found, key=lambda one: one.verdict is not Verdict.FATAL))

    @property
    def is_fatal(self) -> bool:
        """Whether the agent cannot work."""
        return any(one.verdict is Verdict.FATAL for one in self.findings)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where the agent runs."""

    node: str
    namespace: str
    host_pods: str
    mover_account: str
    """The service account of mover pods; empty: that of the agent."""


async def run_self_test(
    api: KubeApi, definitions: InstalledDefinitions, place: Place, mounts: MountTable | None = None
) -> SelfTest:
    """Look at everything. Reads the definitions, so that they can be used afterwards. `KubeUnavailable` is raised."""
    await definitions.refresh(api)
    rights = await check_rights(api, place.namespace)
    snapshots = await _snapshot_api(api)
    account = await _mover_account(api, place)
    volumes = await _host_pods(api, place, mounts or MountTable())
    missing = {right.need for right, finding in rights if finding.verdict is not Verdict.OK}
    host_pods = volumes[0].verdict is Verdict.OK  # without propagation, the volumes of pods that run already are seen
    return SelfTest(
        findings=(*_definitions(definitions), *(finding for _, finding in rights), snapshots, account, *volumes),
        host_pods=host_pods,
        pod_volumes=host_pods and Need.POD_VOLUMES not in missing,
        snapshots=Need.SNAPSHOTS not in missing and snapshots.verdict is Verdict.OK,
    )


# ---- definitions ----


def _definitions(definitions: InstalledDefinitions) -> list[Finding]:
    if not definitions.problems:
        return [Finding("definitions", Verdict.OK, "the four kinds of work are installed")]
    return [
        Finding(
            f"definition of {problem.plural}",
            Verdict.FATAL if problem.is_missing else Verdict.LESS,
            f"{problem.error}; "
            + ("install Velero" if problem.is_missing else f"taken as in Velero {ASSUMED_RELEASE}"),
        )
        for problem in definitions.problems
    ]


# ---- rights ----


async def check_rights(api: KubeApi, namespace: str, rights: Sequence[Right] = RIGHTS) -> list[tuple[Right, Finding]]:
    """What the account that `api` is logged in with may of `rights`: the agent's, or `MOVER_RIGHTS` of mover pods."""
    room = asyncio.Semaphore(_REVIEWS_AT_ONCE)

    async def look(right: Right) -> tuple[Right, Finding]:
        refused = []
        for review in right.reviews(namespace):
            async with room:
                if not await api.allowed(review):
                    refused.append(review.verb)
        where = f"in {namespace}" if right.scope == "namespace" else "in the cluster"
        check = f"right to {right.name} {where}"
        if not refused:
            return right, Finding(check, Verdict.OK, f"{', '.join(right.verbs)}: {right.use}")
        verdict = Verdict.FATAL if right.need is Need.AGENT else Verdict.LESS
        return right, Finding(check, verdict, f"{', '.join(refused)} is refused; it is needed to {right.use}")

    return list(await asyncio.gather(*(look(right) for right in rights)))


# ---- snapshots ----


async def _snapshot_api(api: KubeApi) -> Finding:
    try:
        await api.list(VOLUME_SNAPSHOT_CONTENTS, limit=1)
    except KubeNotFound:
        text = (
            "the cluster does not serve snapshot.storage.k8s.io/v1; install the snapshot controller and its definitions"
        )
        return Finding("snapshot API", Verdict.LESS, text)
    except KubeForbidden as error:
        return Finding("snapshot API", Verdict.LESS, str(error))
    return Finding("snapshot API", Verdict.OK, "snapshot.storage.k8s.io/v1 is served")


# ---- mover pods ----


async def _mover_account(api: KubeApi, place: Place) -> Finding:
    check, name = "account of mover pods", place.mover_account
    if await has_account(api, place.namespace, name):
        return Finding(check, Verdict.OK, f"{name}, which needs no right on secrets")
    missing = f"the service account {name} is not found in {place.namespace}" if name else "none is configured"
    text = f"{missing}: mover pods use the agent's own, which may read secrets; apply deploy/daemonset/mover.yaml"
    return Finding(check, Verdict.LESS, text)


# ---- pod volumes ----


async def _host_pods(api: KubeApi, place: Place, mounts: MountTable) -> list[Finding]:
    root, check = place.host_pods, "host path"
    try:
        await asyncio.to_thread(os.listdir, root)
    except FileNotFoundError:
        return [
            Finding(check, Verdict.LESS, f"{root} is not mounted: no pod volumes, and snapshots by mover pods only")
        ]
    except OSError as error:
        return [Finding(check, Verdict.LESS, f"{root} cannot be read: {error.strerror}")]
    try:
        lost = await _pods_without_folder(api, place)
    except KubeForbidden as error:
        return [Finding(check, Verdict.LESS, f"it cannot be checked: {error}")]
    if lost:
        names = ", ".join(f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in lost[:_NAMED])
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        text = f"{root} has no folder for {names}{more}: mount the `pods` folder of the kubelet's root there"
        return [Finding(check, Verdict.FATAL, text)]
    found = [Finding(check, Verdict.OK, f"{root} has the folders of the node's pods")]
    if not await asyncio.to_thread(propagates, root, mounts):
        text = f"{root} does not get later mounts: set mountPropagation: HostToContainer"
        found.append(Finding("mount propagation", Verdict.LESS, text))
    else:
        found.append(Finding("mount propagation", Verdict.OK, f"{root} gets the mounts that the kubelet makes later"))
    return found


async def _pods_without_folder(api: KubeApi, place: Place) -> list[Pod]:
    """Running pods that have no folder, looked for twice: one that just ended has none any more."""
    running = Selector(fields={"spec.nodeName": place.node, "status.phase": PodPhase.RUNNING})
    lost = [pod async for pod in every(api, PODS, selector=running)]
    for _ in range(2):
        folders = set(await asyncio.to_thread(os.listdir, place.host_pods))
        missing = {pod.metadata.uid for pod in lost if _folder(pod) not in folders}
        if not missing:
            return []
        lost = [pod async for pod in every(api, PODS, selector=running) if pod.metadata.uid in missing]
    return lost


def _folder(pod: Pod) -> str:
    """Of a pod below the kubelet's `pods`: its uid, or for one that the kubelet made by itself the hash it had then."""
    return pod.metadata.annotations.get(_MIRROR_ANNOTATION, pod.metadata.uid)
