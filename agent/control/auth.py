"""Who calls over TLS, and whether they may: decided by the API server, for each call anew.

A caller shows a bearer token of Kubernetes, which the API server reviews, or a certificate of the configured authority,
whose common name is the user and whose organizations are the groups, as the API server itself has it. Either way the
right to a method (`rights`) is asked for by SubjectAccessReview. Of both, the token counts. Nothing is remembered: a
token that expires or a right that is taken away counts at the next call.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.x509.oid import NameOID

from agent.base.errors import ConfigurationError, ControlForbidden, ControlUnauthenticated
from agent.control.border import Context
from agent.control.rights import Right
from agent.kube.reviews import Identity, Reviewer

_BEARER: Final = "bearer "
_MOST_TOKEN: Final = 16 << 10
_RESERVED: Final = "system:"


class ClusterGate:
    """Admits whom the API server lets. Rights are asked for in `namespace`."""

    def __init__(self, reviewer: Reviewer, namespace: str) -> None:
        self._reviewer = reviewer
        self._namespace = namespace

    async def admit(self, right: Right, context: Context) -> None:
        """Return if the caller has the right. Raises `ControlUnauthenticated`, `ControlForbidden`, `KubeError`."""
        who = await self._identify(context)
        if not await self._reviewer.may(who, right.review(self._namespace)):
            raise ControlForbidden(
                f"{who.name} has not the right to {right} in the namespace {self._namespace}",
                hint="give it by a role: docs/control-api.md has examples",
            )

    async def _identify(self, context: Context) -> Identity:
        token = _token(context.invocation_metadata() or ())
        if token:
            who = await self._reviewer.authenticate(token)
            if who is None:
                raise ControlUnauthenticated(
                    "the token is not valid, or not any more", hint="ask for a new one: kubectl create token"
                )
            return who
        for certificate in context.auth_context().get("x509_pem_cert", ()):
            return _of_certificate(certificate)
        raise ControlUnauthenticated("nobody is shown to call", hint="give --token-file, or --cert and --key")


def credentials(certificate: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """What the agent shows, and which callers it lets speak: with `client_ca` only those with a certificate of it.

    Raises `ConfigurationError` when a file cannot be read.
    """
    try:
        pair = key.read_bytes(), certificate.read_bytes()
        authority = None if client_ca is None else client_ca.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"a certificate of the control API cannot be read: {error.filename}: {error.strerror}",
            hint="mount the Secret that holds it",
        ) from error
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def _token(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The bearer token that was shown; empty for none. Raises `ControlUnauthenticated`."""
    shown = [value for name, value in metadata if name == "authorization"]
    if not shown:
        return ""
    value = shown[0] if isinstance(shown[0], str) else ""
    token = value[len(_BEARER) :].strip()
    if len(shown) > 1 or not value.lower().startswith(_BEARER) or not token or len(token) > _MOST_TOKEN:
        raise ControlUnauthenticated("the metadata `authorization` does not hold one bearer token")
    return token


def _of_certificate(pem: bytes) -> Identity:
    """The user that a certificate is about. gRPC has proved that it is valid and the caller's."""
    subject = x509.load_pem_x509_certificate(pem).subject
    names = [str(one.value) for one in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = [str(one.value) for one in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    if len(names) != 1 or not names[0]:
        raise ControlUnauthenticated("the certificate has not one common name")
    if any(name.startswith(_RESERVED) for name in (*names, *groups)):
        raise ControlUnauthenticated(
            f"the certificate names a user or group of the cluster itself ({_RESERVED}…)",
            hint="have a certificate signed for a user without that",
        )
    return Identity(names[0], tuple(groups))
