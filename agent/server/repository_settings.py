"""What Velero's configuration of new repositories says to agents: `--backup-repository-configmap` (contract §4.2)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from agent.base.errors import ConfigurationError, KubeNotFound
from agent.exposers.settings import DEFAULT_CACHE_MB
from agent.kube.api import KubeApi
from agent.kube.meta import Key
from agent.kube.resource import CONFIG_MAPS
from agent.server.document import Findings, read_document

_REPOSITORY_TYPE = "kopia"
_MAX_MB = 1 << 30


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    cache_limit_mb: Annotated[int, msgspec.Meta(ge=0, le=_MAX_MB)] = msgspec.field(default=0, name="cacheLimitMB")


async def cache_limit_mb(api: KubeApi, namespace: str, name: str) -> int:
    """How large the cache of a restore in a mover pod may be; an empty name is no ConfigMap.

    Raises `ConfigurationError` when it is missing or has a mistake, and `KubeError` when it cannot be read.
    """
    if not name:
        return DEFAULT_CACHE_MB
    try:
        source = await api.get(CONFIG_MAPS, Key(namespace, name))
    except KubeNotFound as error:
        raise ConfigurationError(
            f"there is no ConfigMap {namespace}/{name}", hint="create it, or leave --backup-repository-configmap out"
        ) from error
    found = Findings()
    document = read_document(_Document, source.data.get(_REPOSITORY_TYPE, "{}"), found)
    if found.mistakes:
        raise ConfigurationError(f"ConfigMap {source.key}, key {_REPOSITORY_TYPE}: " + "; ".join(found.mistakes))
    return document.cache_limit_mb or DEFAULT_CACHE_MB
