"""Label selectors as Kubernetes understands them."""

from __future__ import annotations

import pytest

from agent.kube.label_selector import check, matches
from agent.kube.volumes import LabelSelector


def _expressions(*expressions: tuple[str, str, list[str]]) -> LabelSelector:
    return LabelSelector(
        match_expressions=tuple({"key": key, "operator": op, "values": values} for key, op, values in expressions)
    )


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (LabelSelector(), True),
        (LabelSelector(match_labels={"zone": "a"}), True),
        (LabelSelector(match_labels={"zone": "a", "disk": "fast"}), False),
        (_expressions(("zone", "In", ["a", "b"])), True),
        (_expressions(("zone", "In", ["b"])), False),
        (_expressions(("zone", "NotIn", ["b"])), True),
        (_expressions(("zone", "NotIn", ["a"])), False),
        (_expressions(("disk", "NotIn", ["fast"])), True),
        (_expressions(("zone", "Exists", [])), True),
        (_expressions(("disk", "Exists", [])), False),
        (_expressions(("disk", "DoesNotExist", [])), True),
        (_expressions(("zone", "Exists", []), ("zone", "DoesNotExist", [])), False),
    ],
)
def test_a_selector_matches_when_all_of_it_holds(selector: LabelSelector, expected: bool) -> None:
    assert matches(selector, {"zone": "a"}) is expected


@pytest.mark.parametrize("expression", [("a", "Near", ["b"]), ("a", "In", []), ("a", "Exists", ["b"])])
def test_what_the_api_server_would_refuse_is_no_selector(expression: tuple[str, str, list[str]]) -> None:
    with pytest.raises(ValueError, match="matchExpressions"):
        check(_expressions(expression))
