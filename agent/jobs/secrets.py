"""Values of Secrets in Velero's namespace, and how long one that is missing may still come.

A tool that keeps Secrets in step with a vault deletes and creates them; a job that begins between the two shall wait
rather than fail. What has been missing for a while is missing: a person has to act, and is told so.
"""

from __future__ import annotations

from typing import Final

from agent.base.clock import Clock
from agent.base.errors import KubeNotFound, KubeUnreadable, SecretAwaited, SecretMissing
from agent.kube.api import KubeApi
from agent.kube.backup_storage_location import SecretKey
from agent.kube.meta import Key
from agent.kube.names import is_dns_subdomain
from agent.kube.resource import SECRETS

PATIENCE_SECONDS: Final = 30.0
"""From when a Secret was first missed to when jobs fail for want of it."""


class SecretReader:
    """Reads anew each time: the next job sees what was replaced."""

    def __init__(self, api: KubeApi, namespace: str, clock: Clock) -> None:
        self._api = api
        self._namespace = namespace
        self._clock = clock
        self._missed: dict[Key, float] = {}

    async def read(self, where: SecretKey, what_for: str) -> bytes:
        """One value. Raises `SecretMissing`, `SecretAwaited` while it may still come, and `KubeError`.

        `what_for` completes the sentence for people: "the Secret x, which holds …, does not exist".
        """
        key = Key(self._namespace, where.name)
        what = f"the Secret {key}, which holds {what_for},"
        if not is_dns_subdomain(where.name):  # a name with `/` would lead to another object
            raise SecretMissing(
                f"the Secret {where.name[:64]!r}, which holds {what_for}, cannot exist: that is no name"
            )
        try:
            secret = await self._api.get(SECRETS, key)
        except KubeNotFound:
            raise self._missing(key, f"{what} does not exist") from None
        except KubeUnreadable as error:
            raise SecretMissing(f"{what} cannot be read: {error}") from error
        self._missed.pop(key, None)
        value = secret.data.get(where.key)
        if value is None:
            raise SecretMissing(f"{what} has no key {where.key!r}", hint="add it, or name the right key")
        if not value.strip():
            raise SecretMissing(f"{what} has nothing under its key {where.key!r}")
        return value

    def _missing(self, key: Key, text: str) -> SecretMissing | SecretAwaited:
        now = self._clock.monotonic()
        if now - self._missed.setdefault(key, now) < PATIENCE_SECONDS:
            return SecretAwaited(text, hint="it is looked for again")
        return SecretMissing(text, hint="create it in Velero's namespace, or correct its name")
