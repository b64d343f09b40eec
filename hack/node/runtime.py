"""Containerd and the kubelet, and their configuration for a node inside namespaces."""

from __future__ import annotations

import json
import textwrap

from hack.node.daemons import Daemon
from hack.node.layout import KUBELET_FOLDER, NODE, NODE_IP, POD_RANGE, Layout
from hack.node.tools import CNI_FOLDER, system, tool

SOCKET = "/run/containerd/containerd.sock"
PAUSE_IMAGE = "lighterage.test/pause:1"

# Snapshotters that probe for kernel modules, and plug-ins that belong to Docker's use of containerd.
_UNUSED_PLUGINS = (
    "io.containerd.internal.v1.restart",
    "io.containerd.internal.v1.opt",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
)


def containerd(layout: Layout) -> Daemon:
    """`restrict_oom_score_adj`: without CAP_SYS_RESOURCE nobody may lower a process's score below its own."""
    config = layout.run / "containerd.toml"
    config.write_text(
        textwrap.dedent(
            f"""\
            version = 2
            root = "{layout.run / "containerd"}"
            state = "/run/containerd"
            disabled_plugins = {json.dumps(_UNUSED_PLUGINS)}
            [grpc]
              address = "{SOCKET}"
            [plugins."io.containerd.grpc.v1.cri"]
              sandbox_image = "{PAUSE_IMAGE}"
              restrict_oom_score_adj = true
              disable_apparmor = true
              [plugins."io.containerd.grpc.v1.cri".cni]
                bin_dir = "{CNI_FOLDER}"
                conf_dir = "{layout.run / "cni"}"
              [plugins."io.containerd.grpc.v1.cri".containerd]
                snapshotter = "overlayfs"
                default_runtime_name = "runc"
                [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
                  runtime_type = "io.containerd.runc.v2"
            """
        )
    )
    _write_network(layout)
    return Daemon("containerd", [system("containerd"), f"--config={config}", "--log-level=info"])


def _write_network(layout: Layout) -> None:
    """Each pod hangs on a veth pair of its own; there is no bridge and no way out of the machine."""
    ipam = {"type": "host-local", "subnet": POD_RANGE, "dataDir": "/run/cni-ipam", "routes": [{"dst": "0.0.0.0/0"}]}
    network = {"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": False, "ipam": ipam}]}
    folder = layout.run / "cni"
    folder.mkdir(exist_ok=True)
    (folder / "10-pods.conflist").write_text(json.dumps(network))


def kubelet(layout: Layout) -> Daemon:
    keys = layout.keys
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(keys / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(keys / f"system-node-{NODE}.crt"),
        "tlsPrivateKeyFile": str(keys / f"system-node-{NODE}.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": "/",
        "failCgroupV1": False,
        "enforceNodeAllocatable": [],
        "oomScoreAdj": 0,
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "resolvConf": "",
        # Nobody answers there, but without it each pod gets MissingClusterDNS events again and again.
        "clusterDNS": ["10.96.0.10"],
        "volumePluginDir": str(KUBELET_FOLDER / "flex"),
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "containerLogMaxSize": "50Mi",
        "maxPods": 250,
        "syncFrequency": "10s",
        "shutdownGracePeriod": "0s",
    }
    path = layout.run / "kubelet.json"
    path.write_text(json.dumps(config, indent=1))
    return Daemon(
        "kubelet",
        [
            tool("kubelet"),
            f"--config={path}",
            f"--kubeconfig={layout.kubeconfig('kubelet')}",
            f"--hostname-override={NODE}",
            f"--node-ip={NODE_IP}",
            "--v=2",
        ],
    )
