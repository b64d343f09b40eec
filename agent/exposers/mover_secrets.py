"""What a mover pod mounts beside its volume: checked before the pod is made, since a pod would wait for it for ever."""

from __future__ import annotations

from agent.base.errors import PodBroken
from agent.exposers.made import find
from agent.exposers.settings import ExposerSettings
from agent.kube.backup_storage_location import SecretKey
from agent.kube.meta import Key
from agent.kube.resource import BACKUP_STORAGE_LOCATIONS, SECRETS
from agent.movers.pod_protocol import PASSWORD_KEY, PASSWORD_SECRET


async def mover_credential(settings: ExposerSettings, location: str) -> SecretKey | None:
    """The credential that a backup storage location names, if it does; `PodBroken` when something is missing."""
    found = await find(settings.api, BACKUP_STORAGE_LOCATIONS, Key(settings.namespace, location))
    if found is None:
        raise PodBroken(
            f"the backup storage location {location} does not exist, so no mover pod can write to it",
            hint="create it again, or make a backup to another one",
        )
    await _check(settings, PASSWORD_SECRET, PASSWORD_KEY)
    credential = found.spec.credential
    if credential is not None:
        await _check(settings, credential.name, credential.key)
    return credential


async def _check(settings: ExposerSettings, name: str, key: str) -> None:
    secret = await find(settings.api, SECRETS, Key(settings.namespace, name))
    if secret is None or key not in secret.data:
        raise PodBroken(
            f"the Secret {settings.namespace}/{name} does not exist or has no key {key}, so no mover pod can start",
            hint="create the Secret in Velero's namespace",
        )
