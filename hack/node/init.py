"""Process 1 of the cluster's namespaces: mounts, network, processes in order; then it keeps them alive.

Started by `namespaces.start`. What it prints is the cluster's log. When it ends, the kernel ends all below it, and the
mounts, devices and addresses go with the namespaces.
"""

from __future__ import annotations

import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NoReturn

from hack.node import control_plane, runtime, storage
from hack.node.daemons import Daemons, StartFailed, say, wait_until
from hack.node.images import import_image
from hack.node.layout import KUBELET_FOLDER, MANIFESTS, NODE, NODE_IP, S3_PORT, SERVICE_IP, Layout
from hack.node.pki import make_keys
from hack.node.tools import system, tool

_CGROUP_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")


def main() -> NoReturn:
    layout = Layout.of_environment()
    daemons = Daemons(layout)
    try:
        isolate(layout)
        make_keys(layout)
        bring_up(layout, daemons)
    except (StartFailed, subprocess.CalledProcessError, OSError) as error:
        say(f"FAILED: {error}")
        raise SystemExit(1) from error
    layout.ready.touch()
    say("ready")
    while True:
        daemons.look()
        daemons.reap_strangers()
        time.sleep(0.2)


def isolate(layout: Layout) -> None:
    """Mounts and addresses of our own, so that nothing of the cluster shows outside of the namespaces."""
    for what, where in (("tmpfs", "/run"), ("sysfs", "/sys"), ("tmpfs", "/sys/fs/cgroup")):
        _run("mount", "-t", what, *(["-o", "mode=755"] if what == "tmpfs" else []), what, where)
    Path("/run/lock").mkdir()
    # Controllers have to be mounted anew to be rooted in our cgroup namespace.
    for controller in (*_CGROUP_CONTROLLERS, "systemd"):
        folder = Path("/sys/fs/cgroup") / controller
        folder.mkdir()
        options = "none,name=systemd" if controller == "systemd" else controller
        _run("mount", "-t", "cgroup", "-o", options, "cgroup", folder)
    for ours, theirs in (("kubelet", KUBELET_FOLDER), ("var-log", Path("/var/log"))):
        (layout.run / ours).mkdir(parents=True, exist_ok=True)
        _run("mount", "--bind", layout.run / ours, theirs)
    _run("ip", "link", "set", "lo", "up")
    for address in (NODE_IP, SERVICE_IP):
        _run("ip", "address", "add", f"{address}/32", "dev", "lo")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")


def bring_up(layout: Layout, daemons: Daemons) -> None:
    """Start everything in an order in which nothing has to be tried twice. Raises `StartFailed`."""
    daemons.start(control_plane.etcd(layout))
    daemons.start(control_plane.api_server(layout))
    daemons.start(runtime.containerd(layout))
    daemons.start(storage.object_store(layout))
    wait_until("containerd answers", 30, lambda: _succeeds("ctr", "version"))
    import_image(layout, "pause")
    wait_until("the API server is ready", 90, lambda: _answers(layout, f"https://{SERVICE_IP}/readyz"))
    daemons.start(control_plane.controller_manager(layout))
    daemons.start(control_plane.scheduler(layout))
    daemons.start(runtime.kubelet(layout))
    kubectl = [str(tool("kubectl")), f"--kubeconfig={layout.kubeconfig()}"]
    _run(*kubectl, "apply", *(f"--filename={path}" for path in storage.snapshot_definitions()))
    _run(*kubectl, "wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
    _run(*kubectl, "apply", f"--filename={MANIFESTS / 'storage.yaml'}")
    say("       volume snapshots and storage classes are defined")
    daemons.start(storage.csi_driver(layout))
    wait_until("the CSI driver listens", 20, storage.CSI_SOCKET.exists)
    for side_car in storage.csi_side_cars(layout):
        daemons.start(side_car)
    ready = [*kubectl, "wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=2s"]
    wait_until("the node is Ready", 90, lambda: _succeeds(*ready))
    drivers = ["--for=jsonpath={.spec.drivers[0].name}=dir.csi.lighterage.test", f"csinode/{NODE}", "--timeout=2s"]
    wait_until("the kubelet knows the CSI driver", 60, lambda: _succeeds(*kubectl, "wait", *drivers))
    wait_until("S3 answers", 60, lambda: _answers(layout, f"http://{NODE_IP}:{S3_PORT}/"))
    account = [*kubectl, "get", "serviceaccount", "default"]
    wait_until("pods have a service account", 30, lambda: _succeeds(*account))


def _run(program: str, *arguments: str | Path) -> None:
    """Run to the end, quietly. Raises `StartFailed` with what it said."""
    command = [program if "/" in program else str(system(program)), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise StartFailed(f"{' '.join(command)}: {done.stdout.strip()[-2000:]}")


def _succeeds(program: str, *arguments: str | Path) -> bool:
    try:
        _run(program, *arguments)
    except StartFailed:
        return False
    return True


def _answers(layout: Layout, url: str) -> bool:
    """Whether a server answers at all, or, when it is ours, with success."""
    context = ssl.create_default_context(cafile=str(layout.keys / "ca.crt"))
    try:
        with urllib.request.urlopen(url, timeout=5, context=context):
            return True
    except urllib.error.HTTPError as error:
        return url.startswith("http:") and error.code < 500
    except OSError:
        return False


if __name__ == "__main__":
    main()
