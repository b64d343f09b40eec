"""The cluster's namespaces, seen from outside: start them, run something in them, end them, sweep what is left.

One process, `unshare`'s child, is the cluster: `run/init` has its number and start time, so that a number which now
belongs to another process is never killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hack.node.daemons import StartFailed
from hack.node.layout import KUBELET_FOLDER, ROOT, Layout
from hack.node.tools import search_path, system

_NAMESPACES = ("--mount", "--net", "--pid", "--cgroup")
_START_SECONDS = 300


def init_pid(layout: Layout) -> int | None:
    """The process that is the cluster, if it lives."""
    try:
        pid, started = (layout.run / "init").read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if _start_time(int(pid)) == started else None


def _start_time(pid: int) -> str | None:
    """When a process started, in the kernel's ticks: with its number it is unique."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


def start(layout: Layout) -> Iterator[str]:
    """Start the cluster and yield the lines of its log until it is ready. Raises `StartFailed`."""
    layout.logs.mkdir(parents=True, exist_ok=True)
    layout.ready.unlink(missing_ok=True)
    KUBELET_FOLDER.mkdir(parents=True, exist_ok=True)
    # Shared propagation gives pods what HostToContainer and Bidirectional promise.
    command = [str(system("unshare")), *_NAMESPACES, "--fork", "--mount-proc", "--propagation=shared", "--kill-child"]
    with open(layout.logs / "node.log", "wb") as log:
        unshare = subprocess.Popen(
            [*command, sys.executable, "-m", "hack.node.init"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "LIGHTERAGE_CLUSTER": str(layout.base)},
            start_new_session=True,
        )
    _record_init(layout, unshare)
    yield from _log_until_ready(layout, unshare)


def release_all(layout: Layout) -> None:
    """Give back what a test that was killed has taken."""
    layout.held.mkdir(parents=True, exist_ok=True)
    for held in layout.held.iterdir():
        held.unlink()


def _record_init(layout: Layout, unshare: subprocess.Popen[bytes]) -> None:
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
    deadline = time.monotonic() + 10
    while unshare.poll() is None and time.monotonic() < deadline:
        if pids := children.read_text().split():
            (layout.run / "init").write_text(f"{pids[0]} {_start_time(int(pids[0]))}")
            return
        time.sleep(0.02)
    raise StartFailed(f"namespaces are refused: {(layout.logs / 'node.log').read_text().strip()}")


def _log_until_ready(layout: Layout, unshare: subprocess.Popen[bytes]) -> Iterator[str]:
    deadline = time.monotonic() + _START_SECONDS
    with open(layout.logs / "node.log", encoding="utf-8", errors="replace") as log:
        while True:
            ended = unshare.poll() is not None or time.monotonic() > deadline
            ready = layout.ready.exists()
            for line in log:
                yield line.rstrip()
            if ready:
                return
            if ended:
                end(layout)
                raise StartFailed(f"the cluster did not come up; its logs are in {layout.logs}")
            time.sleep(0.1)


def command_inside(layout: Layout, command: Sequence[str]) -> list[str]:
    """`command` in the cluster's namespaces, in the folder of the caller. Raises `StartFailed` when it is not up."""
    pid = init_pid(layout)
    if pid is None:
        raise StartFailed("the cluster is not up: hack/cluster up")
    return [str(system("nsenter")), f"--target={pid}", *_NAMESPACES, f"--wdns={Path.cwd()}", *command]


def environment(layout: Layout) -> Mapping[str, str]:
    """What commands inside the cluster see: its kubeconfig, and `kubectl` and `velero` on PATH."""
    path = f"{search_path()}:{os.environ['PATH']}"
    return {**os.environ, "KUBECONFIG": str(layout.kubeconfig()), "PATH": path}


def end(layout: Layout) -> None:
    """End the cluster, if it lives, and sweep what the kernel keeps: loop devices and empty cgroups."""
    if (pid := init_pid(layout)) is not None:
        os.kill(pid, signal.SIGKILL)
        while init_pid(layout) is not None:
            time.sleep(0.05)
    (layout.run / "init").unlink(missing_ok=True)
    layout.ready.unlink(missing_ok=True)
    _detach_loop_devices(layout)
    _remove_cgroups()


def _detach_loop_devices(layout: Layout) -> None:
    """Those behind our Block volumes, and those that the kubelet put over them."""
    listing = subprocess.run(
        [system("losetup"), "--noheadings", "--output=NAME,BACK-FILE"], stdout=subprocess.PIPE, text=True, check=True
    )
    ours = (f"{layout.volumes}/", f"{KUBELET_FOLDER}/plugins/kubernetes.io/csi/volumeDevices/")
    for line in listing.stdout.splitlines():
        device, _, file = line.strip().partition(" ")
        if any(folder in file for folder in ours):
            subprocess.run([system("losetup"), "--detach", device], check=False)


def _remove_cgroups() -> None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        mount = controllers.removeprefix("name=") or "unified"
        for name in ("kubepods", "k8s.io"):
            top = Path("/sys/fs/cgroup") / mount / own.lstrip("/") / name
            for folder, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):  # another cluster's, where one runs
                    os.rmdir(folder)
