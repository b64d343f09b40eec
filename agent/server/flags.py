"""How the agent was started: every flag and variable of the stock `node-agent server` (contract §4.3), and ours.

The command line is parsed in `agent.cli.agent`; what is known of it here are names, defaults and meaning. A flag that
the stock agent takes never fails our start: what we do not need is taken, told and ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

DEFAULT_NAMESPACE: Final = "velero"
DEFAULT_METRICS_ADDRESS: Final = ":8085"
DEFAULT_RESOURCE_TIMEOUT: Final = "10m0s"
DEFAULT_PREPARE_TIMEOUT: Final = "30m0s"
DEFAULT_OWN_CONFIGMAP: Final = "lighterage-config"
DEFAULT_SCRATCH: Final = "/scratch"
DEFAULT_MOVER_ACCOUNT: Final = "lighterage-mover"
DEFAULT_CONTROL_SOCKET: Final = "/run/lighterage/control.sock"

KNOWN_FEATURES: Final = frozenset({"EnableCSI", "EnableAPIGroupVersions", "EnableUploadProgress"})
"""Feature flags that Velero has or had; none of them changes what an agent does."""

IGNORED_FLAGS: Final[Mapping[str, str]] = {
    "colorized": "coloured output",
    "client-qps": "requests per second to the API server",
    "client-burst": "requests at once to the API server",
    "client-page-size": "objects in one list from the API server",
    "add_dir_header": "klog",
    "alsologtostderr": "klog",
    "legacy_stderr_threshold_behavior": "klog",
    "log_backtrace_at": "klog",
    "log_dir": "klog",
    "log_file": "klog",
    "log_file_max_size": "klog",
    "logtostderr": "klog",
    "one_output": "klog",
    "skip_headers": "klog",
    "skip_log_headers": "klog",
    "stderrthreshold": "klog",
    "v": "klog",
    "vmodule": "klog",
}
"""Taken for the sake of manifests that have them, and what they are about in Velero."""


class AgentFlags(msgspec.Struct, frozen=True, kw_only=True):
    """All that the agent is told at its start. Times in seconds."""

    node: str
    """From `NODE_NAME`."""
    namespace: str = DEFAULT_NAMESPACE
    """Velero's."""
    log_level: str = "info"
    log_format: str = "text"
    features: tuple[str, ...] = ()
    metrics_address: str = DEFAULT_METRICS_ADDRESS
    prepare_timeout: float = 1800.0
    node_agent_configmap: str = ""
    backup_repository_configmap: str = ""
    lighterage_configmap: str = DEFAULT_OWN_CONFIGMAP
    kubeconfig: str = ""
    kubecontext: str = ""
    host_pods: str = "/host_pods"
    mover_service_account: str = DEFAULT_MOVER_ACCOUNT
    """Of mover pods; empty, or of none that exists: that of the agent."""
    cache_dir: str = f"{DEFAULT_SCRATCH}/lighterage"
    control_socket: str = ""
    """Where the control API listens for this pod; empty: nowhere."""
    control_address: str = ""
    """Where it listens for others, over TLS; empty: nowhere."""
    control_cert: str = ""
    control_key: str = ""
    control_client_ca: str = ""
    """Who signs the certificates of callers; empty: callers show tokens only."""
    termination_grace: float = 30.0
    """Seconds that Kubernetes gives the pod to end."""
    without_effect: tuple[str, ...] = ()
    """Flags that were given, and mean something to Velero's agent only."""

    @property
    def unknown_features(self) -> tuple[str, ...]:
        """Feature flags that no release of Velero is known to have."""
        return tuple(one for one in self.features if one not in KNOWN_FEATURES)
