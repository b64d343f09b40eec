"""Etcd and the control plane of Kubernetes, as plain processes."""

from __future__ import annotations

import json

from hack.node.audit import POLICY
from hack.node.daemons import Daemon
from hack.node.layout import KUBELET_FOLDER, NODE_IP, SERVICE_RANGE, Layout
from hack.node.tools import system, tool


def etcd(layout: Layout) -> Daemon:
    return Daemon(
        "etcd",
        [
            system("etcd"),
            f"--data-dir={layout.run / 'etcd'}",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--logger=zap",
            "--log-level=warn",
            f"--quota-backend-bytes={1 << 30}",
            # A lost write after a power cut costs a test cluster nothing, a busy disk costs it its start.
            "--unsafe-no-fsync",
        ],
    )


def api_server(layout: Layout) -> Daemon:
    """Listens on every address, so that the Service's is local and pods need no kube-proxy."""
    keys = layout.keys
    policy = layout.run / "audit.json"
    policy.write_text(json.dumps(POLICY))
    return Daemon(
        "apiserver",
        [
            tool("kube-apiserver"),
            "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=0.0.0.0",
            "--secure-port=443",
            f"--advertise-address={NODE_IP}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--allow-privileged",
            "--authorization-mode=Node,RBAC",
            f"--client-ca-file={keys / 'ca.crt'}",
            f"--tls-cert-file={keys / 'kube-apiserver.crt'}",
            f"--tls-private-key-file={keys / 'kube-apiserver.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys / 'service-accounts.key'}",
            f"--service-account-signing-key-file={keys / 'service-accounts.key'}",
            f"--kubelet-client-certificate={keys / 'apiserver-kubelet-client.crt'}",
            f"--kubelet-client-key={keys / 'apiserver-kubelet-client.key'}",
            f"--kubelet-certificate-authority={keys / 'ca.crt'}",
            "--kubelet-preferred-address-types=InternalIP",
            "--profiling=false",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={layout.logs / 'audit.log'}",
        ],
    )


def controller_manager(layout: Layout) -> Daemon:
    kubeconfig = layout.kubeconfig("controller-manager")
    return Daemon(
        "controller-manager",
        [
            tool("kube-controller-manager"),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--service-account-private-key-file={layout.keys / 'service-accounts.key'}",
            f"--root-ca-file={layout.keys / 'ca.crt'}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--controllers=*,-bootstrap-signer-controller,-token-cleaner-controller",
            "--bind-address=127.0.0.1",
            "--pvclaimbinder-sync-period=2s",
            f"--flex-volume-plugin-dir={KUBELET_FOLDER / 'flex'}",
        ],
    )


def scheduler(layout: Layout) -> Daemon:
    kubeconfig = layout.kubeconfig("scheduler")
    return Daemon(
        "scheduler",
        [
            tool("kube-scheduler"),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ],
    )
