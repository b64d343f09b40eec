"""Our own configuration: the JSON document of `--lighterage-configmap`, on top of Velero's."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from agent.kube.agent_config import RunnerChoice

Amount: TypeAlias = int | str
"""A number, or a Kubernetes quantity (`200Mi`)."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base: camel case outside."""


class LimitsPart(_Part, frozen=True, kw_only=True):
    """What all jobs of a node may take together."""

    upload_bytes_per_second: Annotated[Amount, Meta(description="to the object store (`100Mi`); 0: no limit")] = 0
    download_bytes_per_second: Annotated[Amount, Meta(description="from the object store; 0: no limit")] = 0
    requests_per_second: Annotated[Amount, Meta(description="to the object store; 0: no limit")] = 0
    memory: Annotated[
        Amount,
        Meta(description="of all workers of a node together (`4Gi`): rather fewer jobs run at once"),
    ] = 0
    worker_memory: Annotated[
        Amount, Meta(description="of one worker; 0: `memory` in equal parts. Changes count from the next start")
    ] = 0


class OwnDocument(_Part, frozen=True, kw_only=True):
    """The whole of it."""

    runner: Annotated[
        RunnerChoice,
        Meta(
            description="where data is moved: `local` in the agent, `pod` in the pod that mounts the volume, `auto` in"
            " the agent for file systems where it sees the node's pod volumes, else in the pod"
        ),
    ] = RunnerChoice.AUTO
    limits: Annotated[LimitsPart, Meta(description="what all jobs of a node may take together")] = LimitsPart()
    keep_partial: Annotated[
        bool, Meta(description="a backup with unreadable files is Completed with a message rather than Failed")
    ] = False
    pod_volume_timeout: Annotated[
        str, Meta(description="a PodVolumeBackup or PodVolumeRestore that takes longer (`4h`) is canceled; `0`: never")
    ] = "0"
    log_level: Annotated[
        str, Meta(description="trace, debug, info, warning, error, fatal or panic; empty: that of the command line")
    ] = ""
