"""Which objects of a kind a list or a watch is about: equality and existence of labels, equality of fields."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Selector(msgspec.Struct, frozen=True):
    """All conditions have to hold. The empty selector takes every object."""

    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Labels with these values."""
    has_labels: tuple[str, ...] = ()
    """Labels with any value."""
    fields: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Fields with these values, by path (`spec.nodeName`); the API server knows few of them for each kind."""

    @property
    def label_text(self) -> str:
        """For the query parameter `labelSelector`."""
        return ",".join([*(f"{name}={value}" for name, value in self.labels.items()), *self.has_labels])

    @property
    def field_text(self) -> str:
        """For the query parameter `fieldSelector`."""
        return ",".join(f"{name}={value}" for name, value in self.fields.items())


EVERYTHING = Selector()
