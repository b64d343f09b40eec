"""Who we are to an object store: the first of a location's own Secret, a file the agent was given, its environment.

The order of contract §5.4. Everything is read at the start of each job, so what was replaced counts from the next job
on. Below these layers the worker asks what is around it: web identity, container and instance roles.

A credentials file is passed on as text and always with a named profile: then nothing in the worker's environment comes
before it, and `role_arn`, `source_profile`, `credential_process` and `region` in it count as in Velero's plug-in.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from agent.base.errors import LocationInvalid
from agent.jobs.secrets import SecretReader
from agent.kube.backup_storage_location import BackupStorageLocation
from agent.movers.aws_credentials import CREDENTIALS_FILE_VARIABLE, DEFAULT_PROFILE, aws_credentials
from agent.storage.no_proxy import is_excepted

_MAX_FILE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Credentials:
    """What is passed to a worker. Without any of it the worker looks around itself."""

    text: str = field(default="", repr=False)
    """Of a credentials file; goes with `profile`."""
    profile: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    origin: str = "what is around the worker: web identity, container or instance role"
    """Where it is from, for messages and logs."""


async def find_credentials(
    location: BackupStorageLocation, secrets: SecretReader, environ: Mapping[str, str]
) -> Credentials:
    """The first layer that has something. `environ` is the agent's.

    Raises `SecretMissing`, `SecretAwaited`, `LocationInvalid` for a file that is none, `KubeError`.
    """
    config, name = location.spec.config, location.metadata.name
    profile = config.get("profile", "")
    if (where := location.spec.credential) is not None:
        value = await secrets.read(where, f"the credentials of the backup storage location {name}")
        origin = f"the key {where.key!r} of the Secret {where.name}"
        return Credentials(aws_credentials(value, profile, origin), profile or DEFAULT_PROFILE, origin=origin)
    if path := config.get("credentialsFile") or environ.get(CREDENTIALS_FILE_VARIABLE):
        data = await asyncio.to_thread(_read, path, name)
        if data is not None:
            origin = f"the file {path!r}"
            return Credentials(aws_credentials(data, profile, origin), profile or DEFAULT_PROFILE, origin=origin)
    if environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY") and not profile:
        return Credentials(
            access_key=environ["AWS_ACCESS_KEY_ID"],
            secret_key=environ["AWS_SECRET_ACCESS_KEY"],
            session_token=environ.get("AWS_SESSION_TOKEN", ""),
            origin="the environment of the agent",
        )
    return Credentials(profile=profile)


def proxy_with_password(environ: Mapping[str, str], url: str) -> str:
    """The agent's proxy for `url` if it needs a password: those are not in a worker's environment. Else empty."""
    parts = urlsplit(url)
    name = f"{parts.scheme}_proxy"
    proxy = environ.get(name) or environ.get(name.upper()) or ""
    if "@" not in proxy:
        return ""
    return "" if is_excepted(environ, parts.hostname or "") else proxy


def _read(path: str, name: str) -> bytes | None:
    """A file's content; None when there is no such file, as AWS's own libraries take it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise LocationInvalid(f"cannot read the credentials file {path!r} of the location {name}: {error}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LocationInvalid(f"the credentials file {path!r} of the location {name} is no file")
        data = os.read(descriptor, _MAX_FILE + 1)
    finally:
        os.close(descriptor)
    if len(data) > _MAX_FILE:
        raise LocationInvalid(f"the credentials file {path!r} of the location {name} is larger than {_MAX_FILE} bytes")
    return data
