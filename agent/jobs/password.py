"""The password of every repository: one Secret of Velero's for all of them (contract §13.16)."""

from __future__ import annotations

from agent.base.errors import SecretMissing
from agent.jobs.secrets import SecretReader
from agent.kube.backup_storage_location import SecretKey
from agent.movers.pod_protocol import PASSWORD_KEY, PASSWORD_SECRET


async def repository_password(secrets: SecretReader) -> str:
    """As it is used. Raises `SecretMissing`, `SecretAwaited`, `KubeError`."""
    where = SecretKey(name=PASSWORD_SECRET, key=PASSWORD_KEY)
    return password_text(await secrets.read(where, "the password of all repositories"))


def password_text(value: bytes) -> str:
    """The password in a Secret's value: without the white space around it, as Velero takes it."""
    try:
        return value.decode().strip()
    except UnicodeDecodeError:
        raise SecretMissing(
            f"the value {PASSWORD_KEY!r} of the Secret {PASSWORD_SECRET} is no UTF-8 text, so it is no password"
        ) from None
