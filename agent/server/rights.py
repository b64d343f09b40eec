"""Every right that the agent needs, and what it is for (contract §4.5, §13.13): the one table of them.

The self-test asks the API server for each; the roles of `deploy/daemonset` are held to it by a test, so that the
manifest grants what is used and nothing more. Mover pods have an account and a table of their own (§13.15).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import msgspec

from agent.kube.api import AccessReview
from agent.kube.codec import ObjectT
from agent.kube.resource import (
    BACKUP_REPOSITORIES,
    BACKUP_STORAGE_LOCATIONS,
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    DAEMON_SETS,
    DATA_DOWNLOADS,
    DATA_UPLOADS,
    EVENTS,
    LEASES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    POD_VOLUME_BACKUPS,
    POD_VOLUME_RESTORES,
    PODS,
    PRIORITY_CLASSES,
    SECRETS,
    SERVICE_ACCOUNTS,
    STORAGE_CLASSES,
    VOLUME_ATTACHMENTS,
    VOLUME_SNAPSHOT_CONTENTS,
    VOLUME_SNAPSHOTS,
    Resource,
)

READ: Final = ("get", "list", "watch")


class Scope(StrEnum):
    """Where a right is needed."""

    NAMESPACE = "namespace"
    """In Velero's namespace."""
    CLUSTER = "cluster"
    """In every namespace, or on objects that are in none."""


class Need(StrEnum):
    """What becomes of the agent without a right."""

    AGENT = "agent"
    """It cannot work."""
    SNAPSHOTS = "snapshots"
    """Data of CSI snapshots is not moved, nor restored."""
    POD_VOLUMES = "pod volumes"
    """Pod volumes are neither backed up nor restored."""
    COMFORT = "comfort"
    """It works, and says less or reacts later."""


class Right(msgspec.Struct, frozen=True):
    """Verbs on a kind of object."""

    group: str
    plural: str
    verbs: tuple[str, ...]
    scope: Scope
    need: Need
    use: str
    """What for, for people."""

    @property
    def name(self) -> str:
        """`volumesnapshots.snapshot.storage.k8s.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def reviews(self, namespace: str) -> Iterator[AccessReview]:
        """The questions to ask the API server, one a verb; `namespace` is Velero's."""
        where = namespace if self.scope is Scope.NAMESPACE else ""
        for verb in self.verbs:
            yield AccessReview(verb, self.group, self.plural, where)


def _right(resource: Resource[ObjectT], verbs: tuple[str, ...], scope: Scope, need: Need, use: str) -> Right:
    return Right(resource.group, resource.plural, verbs, scope, need, use)


_OURS, _ALL = Scope.NAMESPACE, Scope.CLUSTER

RIGHTS: Final = (
    _right(DATA_UPLOADS, (*READ, "patch"), _OURS, Need.AGENT, "take backups of snapshots"),
    _right(DATA_DOWNLOADS, (*READ, "patch"), _OURS, Need.AGENT, "take restores of snapshots"),
    _right(POD_VOLUME_BACKUPS, (*READ, "patch"), _OURS, Need.POD_VOLUMES, "take backups of pod volumes"),
    _right(POD_VOLUME_RESTORES, (*READ, "patch"), _OURS, Need.POD_VOLUMES, "take restores of pod volumes"),
    _right(BACKUP_STORAGE_LOCATIONS, ("get",), _OURS, Need.AGENT, "find the object store"),
    _right(BACKUP_REPOSITORIES, ("get", "list", "create"), _OURS, Need.AGENT, "have the server make repositories"),
    _right(SECRETS, ("get",), _OURS, Need.AGENT, "read the repository's password and the store's credentials"),
    _right(CONFIG_MAPS, READ, _OURS, Need.COMFORT, "read the configuration and follow its changes"),
    _right(DAEMON_SETS, ("get",), _OURS, Need.SNAPSHOTS, "make pods like those of the agent"),
    _right(SERVICE_ACCOUNTS, ("get",), _OURS, Need.COMFORT, "give mover pods the account that is meant for them"),
    _right(LEASES, (*READ, "create", "patch"), _OURS, Need.COMFORT, "show and see which agents are alive"),
    _right(EVENTS, ("watch", "create", "patch"), _OURS, Need.COMFORT, "tell what happens, and hear what pods tell"),
    _right(EVENTS, ("list",), _ALL, Need.COMFORT, "find the reason of a failure in the cluster's own words"),
    _right(PODS, READ, _ALL, Need.AGENT, "see the pods of the node and the volumes they use"),
    _right(PODS, ("create", "patch", "delete"), _OURS, Need.SNAPSHOTS, "mount volumes by pods of ours"),
    _right(NODES, READ, _ALL, Need.AGENT, "know the labels of nodes and which are gone"),
    _right(PERSISTENT_VOLUME_CLAIMS, ("get", "patch"), _ALL, Need.SNAPSHOTS, "give restored volumes to their claims"),
    _right(
        PERSISTENT_VOLUME_CLAIMS, ("list", "create", "delete"), _OURS, Need.SNAPSHOTS, "make volumes and remove them"
    ),
    _right(PERSISTENT_VOLUMES, ("get", "list", "patch"), _ALL, Need.SNAPSHOTS, "hand volumes over, have them removed"),
    _right(STORAGE_CLASSES, ("get",), _ALL, Need.SNAPSHOTS, "know how volumes are bound"),
    _right(VOLUME_ATTACHMENTS, ("list",), _ALL, Need.SNAPSHOTS, "know where volumes are attached"),
    _right(PRIORITY_CLASSES, ("get",), _ALL, Need.COMFORT, "check the configured priority class"),
    _right(VOLUME_SNAPSHOTS, ("get", "delete"), _ALL, Need.SNAPSHOTS, "take over snapshots and remove them"),
    _right(VOLUME_SNAPSHOTS, ("list", "create"), _OURS, Need.SNAPSHOTS, "hold snapshots while they are read"),
    _right(
        VOLUME_SNAPSHOT_CONTENTS,
        ("get", "list", "create", "patch", "delete"),
        _ALL,
        Need.SNAPSHOTS,
        "take over snapshots and remove them",
    ),
    _right(CUSTOM_RESOURCE_DEFINITIONS, ("get",), _ALL, Need.COMFORT, "know what this version of Velero keeps"),
)

_FOLLOW: Final = ("list", "watch")

MOVER_RIGHTS: Final = (
    _right(PODS, _FOLLOW, _OURS, Need.AGENT, "wait for its job, for other limits and for a cancel"),
    _right(DATA_UPLOADS, _FOLLOW, _OURS, Need.AGENT, "see that it is canceled or deleted"),
    _right(DATA_DOWNLOADS, _FOLLOW, _OURS, Need.AGENT, "see that it is canceled or deleted"),
    _right(POD_VOLUME_BACKUPS, _FOLLOW, _OURS, Need.AGENT, "see that it is canceled or deleted"),
    _right(POD_VOLUME_RESTORES, _FOLLOW, _OURS, Need.AGENT, "see that it is canceled or deleted"),
    _right(EVENTS, ("create", "patch"), _OURS, Need.AGENT, "tell how far it is"),
)
"""Of the account of mover pods. Their secrets are mounted by the kubelet: no right on any."""
