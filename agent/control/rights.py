"""Which right each method needs: verbs on a virtual resource, as docs/control-api.md shows them for roles.

No object of these kinds exists. Roles may grant verbs on them all the same, and the API server answers whether somebody
has them (SubjectAccessReview), so that who may do what is decided where everything else of a cluster is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from agent.kube.api import AccessReview

GROUP: Final = "control.lighterage.io"
PACKAGE: Final = "lighterage.v1"


class Right(msgspec.Struct, frozen=True):
    """A verb on a resource."""

    verb: str
    resource: str
    subresource: str = ""

    def __str__(self) -> str:
        of = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        return f"{self.verb} {of}.{GROUP}"

    def review(self, namespace: str) -> AccessReview:
        """The question to the API server. Rights are given in Velero's namespace."""
        return AccessReview(self.verb, GROUP, self.resource, namespace, subresource=self.subresource)


RIGHTS: Final[Mapping[str, Right]] = {
    f"/{PACKAGE}.{method}": right
    for method, right in {
        "NodeService/GetNode": Right("get", "nodes"),
        "JobService/ListJobs": Right("list", "jobs"),
        "JobService/GetJob": Right("get", "jobs"),
        "JobService/WatchJobs": Right("watch", "jobs"),
        "JobService/CancelJob": Right("cancel", "jobs"),
        "JobService/PauseJob": Right("pause", "jobs"),
        "JobService/ResumeJob": Right("pause", "jobs"),
        "LimitService/GetLimits": Right("get", "limits"),
        "LimitService/SetLimits": Right("update", "limits"),
        "LimitService/ResetLimits": Right("update", "limits"),
        "SnapshotService/ListSnapshots": Right("list", "snapshots"),
        "SnapshotService/BrowseSnapshot": Right("get", "snapshots"),
        "SnapshotService/ReadFile": Right("get", "snapshots", "files"),
        "SnapshotService/RestorePath": Right("restore", "snapshots"),
        "SnapshotService/VerifySnapshot": Right("verify", "snapshots"),
    }.items()
}
"""By the full name of the method. Health and reflection, which tell nothing of jobs, need none."""

OPEN: Final = ("/grpc.health.v1.Health/", "/grpc.reflection.v1alpha.ServerReflection/")
