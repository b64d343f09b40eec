"""Whether labels match a `metav1.LabelSelector`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from agent.kube.meta import View
from agent.kube.volumes import LabelSelector


class _Operator(StrEnum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class _Expression(View, frozen=True, kw_only=True):
    key: str
    operator: _Operator
    values: tuple[str, ...] = ()


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether all conditions hold; an empty selector matches everything. `ValueError` for what is no selector."""
    expressions = _expressions(selector)
    return all(labels.get(name) == value for name, value in selector.match_labels.items()) and all(
        _holds(expression, labels) for expression in expressions
    )


def check(selector: LabelSelector) -> None:
    """Raises `ValueError` for a selector that the API server would refuse."""
    _expressions(selector)


def _expressions(selector: LabelSelector) -> tuple[_Expression, ...]:
    try:
        expressions = msgspec.convert(selector.match_expressions, tuple[_Expression, ...])
    except msgspec.ValidationError as error:
        raise ValueError(f"matchExpressions: {error}") from error
    for expression in expressions:
        needs_values = expression.operator in {_Operator.IN, _Operator.NOT_IN}
        if needs_values != bool(expression.values):
            wanted = "needs" if needs_values else "takes no"
            raise ValueError(f"matchExpressions: {expression.operator} of {expression.key!r} {wanted} values")
    return expressions


def _holds(expression: _Expression, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression.key)
    if expression.operator is _Operator.IN:
        return value in expression.values
    if expression.operator is _Operator.NOT_IN:
        return value not in expression.values
    return (value is not None) == (expression.operator is _Operator.EXISTS)
