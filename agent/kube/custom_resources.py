"""Definitions of custom resources, as far as it takes to know which fields and values a server keeps."""

from __future__ import annotations

import msgspec

from agent.kube.meta import KubeObject, View


class JsonSchema(View, frozen=True, kw_only=True):
    """A structural schema. Fields that it does not name are dropped from objects without a word."""

    properties: dict[str, JsonSchema] = msgspec.field(default_factory=dict)
    enum: tuple[str | int | float | bool | None, ...] = ()
    """Allowed values; empty: any."""
    preserve_unknown_fields: bool = msgspec.field(default=False, name="x-kubernetes-preserve-unknown-fields")

    def at(self, path: str) -> JsonSchema | None:
        """The schema of a field, by path (`status.phase`); None when there is no such field."""
        schema: JsonSchema | None = self
        for name in path.split("."):
            if schema is None or schema.preserve_unknown_fields:
                return schema
            schema = schema.properties.get(name)
        return schema


class Validation(View, frozen=True, kw_only=True):
    """How objects of a version have to look."""

    schema: JsonSchema = msgspec.field(default=JsonSchema(), name="openAPIV3Schema")


class DefinitionVersion(View, frozen=True, kw_only=True):
    """One version of a kind."""

    name: str
    served: bool = False
    schema: Validation = Validation()


class DefinitionSpec(View, frozen=True, kw_only=True):
    """The kind."""

    group: str = ""
    versions: tuple[DefinitionVersion, ...] = ()


class CustomResourceDefinition(KubeObject, frozen=True, kw_only=True):
    """A kind that was added to the cluster."""

    spec: DefinitionSpec = DefinitionSpec()

    def schema(self, version: str) -> JsonSchema | None:
        """That of a served version; None when the server does not serve it."""
        for one in self.spec.versions:
            if one.name == version and one.served:
                return one.schema.schema
        return None
