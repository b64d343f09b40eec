"""Documents of any content are read without an error of their own: all that is wrong is found."""

from __future__ import annotations

import json
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import ConfigurationError
from agent.kube.meta import ConfigMap, ObjectMeta
from agent.server.configuration import parse_configuration
from agent.server.document import Findings, read_document
from agent.server.own_document import OwnDocument
from agent.server.stock_document import StockDocument

KEYS = [
    *(field.encode_name for field in msgspec.structs.fields(StockDocument)),
    *(field.encode_name for field in msgspec.structs.fields(OwnDocument)),
    *("globalConfig", "perNodeConfig", "nodeSelector", "matchExpressions", "number", "memory", "storageClass"),
]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["1Gi", "4h"])
VALUES = st.recursive(
    LEAVES,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(), below, max_size=4),
    max_leaves=20,
)


class Inner(msgspec.Struct, frozen=True, rename="camel"):
    some_size: Annotated[int, msgspec.Meta(ge=0)]
    names: tuple[str, ...] = ()


class Outer(msgspec.Struct, frozen=True, rename="camel"):
    one: Inner | None = None
    many: tuple[Inner, ...] = ()
    by_name: dict[str, Inner] = msgspec.field(default_factory=dict)


def _read(value: object) -> tuple[Outer, Findings]:
    found = Findings()
    return read_document(Outer, json.dumps(value), found), found


def _map(value: object) -> ConfigMap:
    metadata = ObjectMeta(name="x", namespace="velero")
    return ConfigMap(api_version="v1", kind="ConfigMap", metadata=metadata, data={"x": json.dumps(value)})


def test_structs_in_lists_and_maps_are_walked() -> None:
    value = {"one": {"someSize": 1}, "many": [{"someSize": 2, "names": ["a"]}], "byName": {"x": {"somesize": 3}}}
    read, found = _read(value)
    assert read == Outer(Inner(1), (Inner(2, ("a",)),), {"x": Inner(3)})
    assert found == Findings()


def test_each_mistake_has_its_path_and_takes_nothing_else_along() -> None:
    value = {"one": {}, "many": [{"someSize": -1}, {"someSize": 2}], "byName": {"x": 7, "y": {"someSize": 1, "z": 0}}}
    read, found = _read(value)
    assert read == Outer(None, (Inner(2),), {"y": Inner(1)})
    assert [mistake.split(": ")[0] for mistake in found.mistakes] == ["one.someSize", "many[0].someSize", "byName.x"]
    assert found.unknown == ["byName.y.z"]


@pytest.mark.parametrize("text", ["null", "{}"])
def test_nothing_is_all_defaults(text: str) -> None:
    found = Findings()
    assert read_document(Outer, text, found) == Outer()
    assert found == Findings()


@given(VALUES, VALUES)
def test_any_two_documents_are_a_configuration_or_one_error(stock: object, own: object) -> None:
    try:
        loaded = parse_configuration(_map(stock), _map(own))
    except ConfigurationError as error:
        assert "mistake" in str(error)
    else:
        assert loaded.config.load_concurrency.global_config >= 1
        assert loaded.config.limits.memory_bytes >= 0
        assert loaded.config.pod_volume_timeout >= 0
