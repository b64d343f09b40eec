"""Objects that were made for one job, told from others of the same name by who owns them or by a label of ours.

A label, since some of them cannot be owned by the job: owners of objects without a namespace have none either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from agent.base.errors import KubeAlreadyExists, KubeConflict, KubeNotFound, NameTaken
from agent.kube.api import KubeApi
from agent.kube.codec import ObjectT
from agent.kube.meta import Key, KubeObject
from agent.kube.names import JOB_UID_LABEL, valid_name
from agent.kube.resource import Resource
from agent.kube.selector import EVERYTHING, Selector


def made_for(job: KubeObject) -> dict[str, str]:
    """The labels of everything that is made for a job."""
    return {JOB_UID_LABEL: valid_name(job.metadata.uid)}


def is_made_for(obj: KubeObject, job: KubeObject) -> bool:
    """Whether the object is one of the job's."""
    meta = obj.metadata
    if any(owner.uid == job.metadata.uid for owner in meta.owner_references):
        return True
    return meta.labels.get(JOB_UID_LABEL) == valid_name(job.metadata.uid)


def is_being_deleted(obj: KubeObject) -> bool:
    """Whether somebody deleted the object, and only finalizers or its node keep it."""
    return obj.metadata.deletion_timestamp is not None


async def find(api: KubeApi, resource: Resource[ObjectT], key: Key) -> ObjectT | None:
    """The object of this name, whosever it is; None when there is none."""
    try:
        return await api.get(resource, key)
    except KubeNotFound:
        return None


async def every(
    api: KubeApi, resource: Resource[ObjectT], namespace: str = "", selector: Selector = EVERYTHING
) -> AsyncIterator[ObjectT]:
    """All objects, page by page. Those of another shape than their kind are passed over."""
    token = ""
    while True:
        page = await api.list(resource, namespace, selector=selector, continue_token=token)
        for item in page.items:
            yield item
        token = page.continue_token
        if not token:
            return


async def find_made(api: KubeApi, resource: Resource[ObjectT], key: Key, job: KubeObject) -> ObjectT | None:
    """The job's object of this name; `NameTaken` when there is one that is not the job's."""
    found = await find(api, resource, key)
    if found is not None and not is_made_for(found, job):
        raise name_taken(found)
    return found


async def make(api: KubeApi, resource: Resource[ObjectT], obj: ObjectT, job: KubeObject) -> ObjectT:
    """Create an object of the job; one that was created meanwhile, or by an answer that got lost, is taken."""
    try:
        return await api.create(resource, obj)
    except KubeAlreadyExists:
        found = await find_made(api, resource, obj.key, job)
        if found is None:  # and gone again
            raise
        return found


async def request_removal(api: KubeApi, resource: Resource[ObjectT], obj: ObjectT, *, unchanged: bool = False) -> None:
    """Delete this object and no other of its name; with `unchanged`, only as it was seen. It may last a while.

    Being gone already is no error, nor is another of the name; a changed one is seen at the next look.
    """
    if is_being_deleted(obj):
        return
    meta = obj.metadata
    try:
        await api.delete(resource, obj.key, uid=meta.uid, resource_version=meta.resource_version if unchanged else "")
    except (KubeNotFound, KubeConflict):
        return


def name_taken(obj: KubeObject) -> NameTaken:
    """The error for an object of somebody else where one of ours has to be."""
    return NameTaken(
        f"a {obj.kind} {obj.key} exists already and was not made for this job",
        hint="it is left alone; remove or rename it",
    )
