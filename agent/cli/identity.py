"""Who backs up, when nobody says otherwise: kopia's rules, so that both continue each other's histories (§14.19)."""

from __future__ import annotations

import os
import pwd
import socket
from typing import TYPE_CHECKING

import msgspec

from agent.base.errors import UsageError

if TYPE_CHECKING:
    from agent.snapshots.model import Source


class Identity(msgspec.Struct, frozen=True):
    """A client: in session markers, in sources, and as owner of the maintenance."""

    username: str
    hostname: str

    def __str__(self) -> str:
        return f"{self.username}@{self.hostname}"


def default_identity() -> Identity:
    """The OS user name as it is, the host name up to the first dot in lower case."""
    return Identity(_username(), socket.gethostname().partition(".")[0].lower() or "localhost")


def _username() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return os.environ.get("USER") or str(os.getuid())


def parse_source(text: str) -> Source:
    """`user@host:/path`, or a path, which is made absolute and belongs to the default identity.

    What follows the colon is taken as it stands, since sources of other clients need not be paths here.
    """
    from agent.snapshots.model import Source

    client, colon, path = text.partition(":")
    username, at, hostname = client.rpartition("@")
    if colon and at and "/" not in client:
        if not (username and hostname and path):
            raise UsageError(f"the source {text!r} lacks a user, a host or a path", hint="name it user@host:/path")
        return Source(hostname, username, path)
    if not text:
        raise UsageError("the source is empty", hint="name it user@host:/path")
    identity = default_identity()
    return Source(identity.hostname, identity.username, os.path.abspath(text))
