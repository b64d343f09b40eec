"""What the installed custom resource definitions know (contract §10.2), read rather than guessed from a version.

Servers up to 1.16 know four phases of pod volumes, and each release has new fields of which older ones drop what is
written without a word. Implements `agent.controllers.status.Definitions`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from agent.base.errors import KubeError, KubeNotFound
from agent.kube.api import KubeApi
from agent.kube.codec import ObjectT
from agent.kube.custom_resources import JsonSchema
from agent.kube.job import Phase
from agent.kube.meta import Key
from agent.kube.resource import (
    CUSTOM_RESOURCE_DEFINITIONS,
    DATA_DOWNLOADS,
    DATA_UPLOADS,
    POD_VOLUME_BACKUPS,
    POD_VOLUME_RESTORES,
    Resource,
)


class WorkKind(msgspec.Struct, frozen=True):
    """One of the four kinds, by its names."""

    name: str
    """`datauploads.velero.io`."""
    plural: str
    version: str


def _kind(resource: Resource[ObjectT]) -> WorkKind:
    return WorkKind(resource.name, resource.plural, resource.version)


WORK_KINDS: Final = (_kind(DATA_UPLOADS), _kind(DATA_DOWNLOADS), _kind(POD_VOLUME_BACKUPS), _kind(POD_VOLUME_RESTORES))

ASSUMED_RELEASE: Final = "1.18"
"""What is taken for granted of a definition that cannot be read."""
_NOT_IN_ASSUMED_RELEASE: Final = frozenset(
    {
        (DATA_UPLOADS.plural, "spec.parentSnapshot"),
        (POD_VOLUME_BACKUPS.plural, "spec.parentSnapshot"),
        (POD_VOLUME_BACKUPS.plural, "status.node"),
        (POD_VOLUME_BACKUPS.plural, "status.nodeOS"),
        (POD_VOLUME_BACKUPS.plural, "status.acceptedByNode"),
        (POD_VOLUME_RESTORES.plural, "status.nodeOS"),
        (POD_VOLUME_RESTORES.plural, "status.acceptedByNode"),
        (DATA_DOWNLOADS.plural, "status.nodeOS"),
    }
)


class DefinitionProblem(msgspec.Struct, frozen=True):
    """A definition that is missing or cannot be read."""

    plural: str
    is_missing: bool
    error: str


class InstalledDefinitions:
    """The four kinds as this server knows them."""

    def __init__(self) -> None:
        self._schemas: dict[str, JsonSchema] = {}
        self.problems: tuple[DefinitionProblem, ...] = ()
        """Of the last reading."""

    async def refresh(self, api: KubeApi) -> None:
        """Read them. What cannot be read is taken as it was read before, else as it is in `ASSUMED_RELEASE`."""
        problems = []
        for kind in WORK_KINDS:
            try:
                definition = await api.get(CUSTOM_RESOURCE_DEFINITIONS, Key("", kind.name))
            except KubeError as error:
                problems.append(DefinitionProblem(kind.plural, isinstance(error, KubeNotFound), str(error)))
                continue
            schema = definition.schema(kind.version)
            if schema is None:
                problems.append(DefinitionProblem(kind.plural, True, f"{kind.name} has no version {kind.version}"))
            else:
                self._schemas[kind.plural] = schema
        self.problems = tuple(problems)

    def has_phase(self, plural: str, phase: Phase) -> bool:
        """Whether objects of this kind may have the phase; the empty one is what they are made with."""
        schema = self._schemas.get(plural)
        if schema is None or phase is Phase.EMPTY:
            return True
        at = schema.at("status.phase")
        return at is not None and (not at.enum or str(phase) in at.enum)

    def has_field(self, plural: str, path: str) -> bool:
        """Whether they have the field."""
        schema = self._schemas.get(plural)
        if schema is None:
            return (plural, path) not in _NOT_IN_ASSUMED_RELEASE
        return schema.at(path) is not None
