"""As much of PromQL as is needed to see which metrics and labels a query is about."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?\{([^{}]*)\}")
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_RANGE = re.compile(r"\[[^\]]*\]|\boffset\s+[0-9a-z]+")
_NAME = re.compile(r"(?<![\w:$.])[a-zA-Z_:][a-zA-Z0-9_:]*")
_OPERATORS = frozenset({"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring"})
_FUNCTIONS = frozenset({"sum", "min", "max", "avg", "count", "topk", "rate", "increase", "absent", "vector"})
_OVER_TIME = frozenset({"histogram_quantile", "avg_over_time", "min_over_time", "max_over_time"})
_WORDS = _OPERATORS | _FUNCTIONS | _OVER_TIME
_SUFFIXES = ("_bucket", "_sum", "_count")


@dataclass(frozen=True, slots=True)
class Query:
    """One expression."""

    metrics: frozenset[str]
    """Names as they are written, `_bucket` included."""
    selected: frozenset[tuple[str, str]]
    """Metric and label of each matcher."""
    grouped: frozenset[str]
    """Labels of `by`, `on` and the like."""


def parse(expression: str) -> Query:
    """What a query names. Words that are no known function count as metrics, so a mistake is seen."""
    bare = _STRING.sub('""', expression)
    selected = {
        (name, label)
        for name, matchers in _SELECTOR.findall(bare)
        for label in re.findall(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)", matchers)
    }
    grouped = {label.strip() for _, labels in _GROUPING.findall(bare) for label in labels.split(",") if label.strip()}
    rest = _RANGE.sub("", _GROUPING.sub("", _SELECTOR.sub(r" \1 ", bare)))
    metrics = {name for name in _NAME.findall(rest) if name not in _WORDS}
    return Query(frozenset(metrics), frozenset(selected), frozenset(grouped))


def family(name: str, histograms: frozenset[str]) -> str:
    """The metric that a sample belongs to: `x_bucket` of a histogram `x` is `x`."""
    for suffix in _SUFFIXES:
        if name.removesuffix(suffix) in histograms:
            return name.removesuffix(suffix)
    return name
