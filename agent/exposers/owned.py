"""Objects that were made for one custom resource, and are told from others of the same name by their owner's uid."""

from __future__ import annotations

import contextlib

from agent.base.errors import KubeNotFound
from agent.kube.api import KubeApi
from agent.kube.codec import ObjectT
from agent.kube.meta import Key
from agent.kube.resource import Resource


async def find_owned(api: KubeApi, resource: Resource[ObjectT], key: Key, owner: str) -> ObjectT | None:
    """The object of this name, if the one with the uid `owner` owns it."""
    try:
        found = await api.get(resource, key)
    except KubeNotFound:
        return None
    return found if any(reference.uid == owner for reference in found.metadata.owner_references) else None


async def remove_owned(api: KubeApi, resource: Resource[ObjectT], key: Key, owner: str) -> bool:
    """Delete the object of this name, if the one with the uid `owner` owns it; whether it is gone already."""
    found = await find_owned(api, resource, key, owner)
    if found is None:
        return True
    if found.metadata.deletion_timestamp is None:
        with contextlib.suppress(KubeNotFound):
            await api.delete(resource, key, uid=found.metadata.uid)
    return await find_owned(api, resource, key, owner) is None
