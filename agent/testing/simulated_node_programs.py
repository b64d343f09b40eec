"""Containers of a simulation that really run: a static program alone in a root folder, with the pod's volumes in it.

A shell is process 1 of new mount and process namespaces: it mounts the volumes, changes root and user, and starts the
program. When it is killed, all of it is gone.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from agent.kube.pods import Container, Pod
from agent.testing.control_plane_process import ChildProgram

_SCRIPT = """
set -e
root=$1 user=$2; shift 2
while [ "$1" != -- ]; do mount --bind "$1" "$root$2"; shift 2; done
shift
chroot --userspec="$user" "$root" "$@"
"""


def container_program(
    pod: Pod, container: Container, binary: Path, volumes: Mapping[str, Path], folder: Path
) -> ChildProgram:
    """The program of a container, ready to be started. `volumes` are paths on the node by the pod's names for them."""
    root = folder / container.name / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    name = Path(container.command[0]).name
    shutil.copy(binary, root / name)
    (root / name).chmod(0o755)
    mounts: list[str] = []
    for mount in container.volume_mounts:
        source = volumes.get(str(mount["name"]))
        inside = str(mount["mountPath"])
        if source is not None and source.is_dir():
            (root / inside.lstrip("/")).mkdir(parents=True, exist_ok=True)
            mounts += [str(source), inside]
    command = [f"/{name}", *container.command[1:], *container.args]
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _SCRIPT, "sh"]
    return ChildProgram(
        container.name, [*isolated, str(root), _user(pod, container), *mounts, "--", *command], folder / container.name
    )


def _user(pod: Pod, container: Container) -> str:
    for context in (container.security_context, pod.spec.security_context):
        user = context.get("runAsUser")
        if isinstance(user, int):
            return f"{user}:{user}"
    return "0:0"
