"""Secrets and ConfigMaps that a storage driver wants in the namespace of the claim it serves (contract §3.1, step 3).

They are copied from the namespace of the volume into Velero's under their own names, by which the driver looks for
them. Several jobs of one namespace may need the same at once: a copy is owned by all of them, and the last one to let
go of it removes it. What is not a copy is never touched.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from agent.base.errors import KubeAlreadyExists, SourceGone
from agent.exposers.contract import Waiting
from agent.exposers.hosting_pod import owner_of
from agent.exposers.made import find, is_being_deleted, name_taken, request_removal
from agent.kube.api import KubeApi
from agent.kube.cluster import Secret
from agent.kube.codec import merge_patch
from agent.kube.meta import ConfigMap, Key, KubeObject, ObjectMeta, OwnerReference
from agent.kube.names import COPIED_FOR_BACKUP_LABEL, valid_name
from agent.kube.resource import CONFIG_MAPS, SECRETS, Resource

_CopyT = TypeVar("_CopyT", Secret, ConfigMap)


class Wanted(msgspec.Struct, frozen=True):
    """What is to be copied for a job, by name."""

    secrets: tuple[str, ...] = ()
    config_maps: tuple[str, ...] = ()


async def copy_for(api: KubeApi, job: KubeObject, namespace: str, wanted: Wanted) -> Waiting | None:
    """Have all of it, out of `namespace`, in the job's; what is waited for, or None. `SourceGone`, `NameTaken`."""
    for name in wanted.secrets:
        waiting = await _have(api, SECRETS, await _source(api, SECRETS, Key(namespace, name)), job)
        if waiting is not None:
            return waiting
    for name in wanted.config_maps:
        waiting = await _have(api, CONFIG_MAPS, await _source(api, CONFIG_MAPS, Key(namespace, name)), job)
        if waiting is not None:
            return waiting
    return None


async def remove_copies(api: KubeApi, job: KubeObject, wanted: Wanted) -> bool:
    """Let go of all of it; whether none of it is the job's any more."""
    gone = [await _let_go(api, SECRETS, job, name) for name in wanted.secrets]
    gone += [await _let_go(api, CONFIG_MAPS, job, name) for name in wanted.config_maps]
    return all(gone)


async def _source(api: KubeApi, resource: Resource[_CopyT], key: Key) -> _CopyT:
    found = await find(api, resource, key)
    if found is None:
        raise SourceGone(
            f"{key} among the {resource.name}, which the storage driver needs, does not exist",
            hint="check secretNames and configMapNames in the agent's configuration",
        )
    return found


async def _have(api: KubeApi, resource: Resource[_CopyT], source: _CopyT, job: KubeObject) -> Waiting | None:
    copy = msgspec.structs.replace(source, metadata=_metadata(job, source.metadata.name))
    try:
        await api.create(resource, copy)
    except KubeAlreadyExists:
        return await _share(api, resource, copy, job)
    return None


async def _share(api: KubeApi, resource: Resource[_CopyT], copy: _CopyT, job: KubeObject) -> Waiting | None:
    there = await find(api, resource, copy.key)
    if there is None or is_being_deleted(there):
        return Waiting(f"an earlier copy of {copy.key} is being deleted")
    return await _join(api, resource, there, copy, job)


async def _join(
    api: KubeApi, resource: Resource[_CopyT], there: _CopyT, copy: _CopyT, job: KubeObject
) -> Waiting | None:
    if COPIED_FOR_BACKUP_LABEL not in there.metadata.labels:
        raise name_taken(there)
    if _owner(job) in there.metadata.owner_references:
        return None
    if msgspec.structs.replace(there, metadata=copy.metadata) != copy:
        return Waiting(f"{copy.key} is a copy with other content, which another job uses")
    await _own(api, resource, there, (*there.metadata.owner_references, _owner(job)))
    return None


async def _let_go(api: KubeApi, resource: Resource[_CopyT], job: KubeObject, name: str) -> bool:
    there = await find(api, resource, Key(job.metadata.namespace, name))
    if there is None or COPIED_FOR_BACKUP_LABEL not in there.metadata.labels:
        return True
    owners = there.metadata.owner_references
    others = tuple(owner for owner in owners if owner.uid != job.metadata.uid)
    if len(others) == len(owners):
        return True
    if others:
        await _own(api, resource, there, others)
        return True
    await request_removal(api, resource, there, unchanged=True)
    return False


async def _own(api: KubeApi, resource: Resource[_CopyT], there: _CopyT, owners: tuple[OwnerReference, ...]) -> None:
    changed = msgspec.structs.replace(there, metadata=msgspec.structs.replace(there.metadata, owner_references=owners))
    version = there.metadata.resource_version
    await api.patch(resource, there.key, merge_patch(there, changed), resource_version=version)


def _metadata(job: KubeObject, name: str) -> ObjectMeta:
    return ObjectMeta(
        name=name,
        namespace=job.metadata.namespace,
        labels={COPIED_FOR_BACKUP_LABEL: valid_name(job.metadata.uid)},
        owner_references=(_owner(job),),
    )


def _owner(job: KubeObject) -> OwnerReference:
    return msgspec.structs.replace(owner_of(job), controller=None)  # an object has at most one controller
