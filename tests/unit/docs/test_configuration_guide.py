"""docs/configuration.md says what the types say, and its examples are configurations without a mistake."""

from __future__ import annotations

from agent.kube.meta import ConfigMap, ObjectMeta
from agent.server.configuration import parse_configuration
from hack import config_docs


def _map(text: str) -> ConfigMap:
    metadata = ObjectMeta(name="example", namespace="velero")
    return ConfigMap(api_version="v1", kind="ConfigMap", metadata=metadata, data={"config.json": text})


def test_the_reference_is_current() -> None:
    assert config_docs.TARGET.read_text(encoding="utf-8") == config_docs.render(), "run `python -m hack.config_docs`"


def test_the_examples_are_taken_without_a_warning() -> None:
    stock, own = config_docs.examples()
    loaded = parse_configuration(_map(stock), _map(own))
    assert loaded.warnings == ()
    assert loaded.config.load_concurrency.per_node[0].number == 6
    assert loaded.config.limits.memory_bytes == 4 << 30


def test_every_key_says_what_it_means() -> None:
    rows = [line for line in config_docs.render().splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    assert [row for row in rows if row.rstrip(" |").endswith("|") or len(row.split(" | ")) < 4] == []
