"""A real Kubernetes node without Docker, registry or network: what `hack/cluster` runs.

Etcd, the control plane, containerd, the kubelet, a CSI driver with snapshots and an S3 server are plain processes below
one process that has its own mount, network, process and cgroup namespaces; Velero and the node agent are pods. Ending
that one process ends everything.

Outside of the namespaces: `__main__` (the commands), `namespaces` (start, enter, end), `tools` (where programs come
from). Inside: `init` (process 1) starts what `control_plane`, `runtime` and `storage` describe and keeps it alive
through `daemons`; `velero` then installs Velero and the agent through the API server. `layout` says where things lie.
"""
