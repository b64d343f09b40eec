"""Keys and kubeconfigs of the cluster, made once per cluster."""

from __future__ import annotations

import datetime

from agent.testing.control_plane_keys import Keys, write_kubeconfig
from hack.node.layout import NODE, NODE_IP, SERVICE_IP, Layout

_LIFE = datetime.timedelta(days=3650)
_MASTERS = "system:masters"
_USERS = {
    "admin": ("admin", _MASTERS),
    "controller-manager": ("system:kube-controller-manager",),
    "scheduler": ("system:kube-scheduler",),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
}
"""Who gets a kubeconfig: name in Kubernetes, and groups."""


def make_keys(layout: Layout) -> None:
    """Make what is not there: an authority, certificates of users and servers, kubeconfigs, service account keys."""
    if layout.kubeconfig().exists():
        return
    keys = Keys(layout.keys, life=_LIFE, names=(NODE,), addresses=(NODE_IP, SERVICE_IP))
    keys.issue("kube-apiserver")
    keys.issue("apiserver-kubelet-client", _MASTERS)
    certificates = {user: keys.issue(*names) for user, names in _USERS.items()}
    for user, (certificate, key) in sorted(certificates.items(), reverse=True):
        credentials = {"client-certificate": str(certificate), "client-key": str(key)}
        write_kubeconfig(layout.kubeconfig(user), f"https://{SERVICE_IP}:443", keys.authority, credentials)
