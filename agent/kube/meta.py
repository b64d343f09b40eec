"""What every object has: type, metadata, owners. Base of the typed views.

A view holds the fields this release knows and forgets the others, so a view is never written back whole: changes go out
as the merge patch between two views (`agent.kube.codec.merge_patch`), which names only what changed.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from agent.kube.times import Time


class Key(NamedTuple):
    """Where an object is: what informers hand to work queues. Cluster-wide objects have the namespace ``""``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class View(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of all parts of objects: camel case outside, defaults left out, unknown fields ignored, types strict."""


class OwnerReference(View, frozen=True, kw_only=True):
    """An object that this one goes away with."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(View, frozen=True, kw_only=True):
    """The part of `metadata` that we read or write."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerReference, ...] = ()


class KubeObject(View, frozen=True, kw_only=True):
    """Base of the typed views of objects."""

    api_version: str
    kind: str
    metadata: ObjectMeta

    @property
    def key(self) -> Key:
        """Where the object is."""
        return Key(self.metadata.namespace, self.metadata.name)


class ConfigMap(KubeObject, frozen=True, kw_only=True):
    """A ConfigMap's text and binary data."""

    data: dict[str, str] = msgspec.field(default_factory=dict)
    binary_data: dict[str, bytes] = msgspec.field(default_factory=dict)
