"""Draw the dashboard from a Prometheus, without Grafana: `python -m hack.dashboard_png http://127.0.0.1:9090 FILE.png`.

For looking at panels after a change of their queries: of a day that ends now, or of HOURS that end at END. Needs
matplotlib, which nothing else of the project does.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from hack.dashboard import ROWS, Panel

_DAY = 24.0
_STEPS = 200
_COLUMNS = 3
_MOST_LINES = 12


def draw(url: str, target: str, end: float, hours: float = _DAY) -> None:
    """One picture of all panels over the hours before `end`, seconds since 1970."""
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    panels = [(title, panel) for title, row in ROWS for panel in row]
    lines = -(-len(panels) // _COLUMNS)
    figure, axes = pyplot.subplots(lines, _COLUMNS, figsize=(7 * _COLUMNS, 3 * lines), constrained_layout=True)
    for axis, (row, panel) in zip(axes.flat, panels, strict=False):
        axis.set_title(f"{row}: {panel.title} [{panel.unit}]", fontsize=9)
        series = (_range_series if panel.kind == "timeseries" else _instant)(url, panel, end, hours)
        if not series:
            axis.text(0.5, 0.5, "no data", ha="center")
        elif panel.kind == "timeseries":
            for name, points in list(series.items())[:_MOST_LINES]:
                axis.plot([(at - end) / 3600 for at, _ in points], [value for _, value in points], label=name)
            axis.legend(fontsize=6, loc="upper left")
        else:
            axis.barh(list(series)[:_MOST_LINES], [points[-1][1] for points in series.values()][:_MOST_LINES])
            axis.tick_params(labelsize=7)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    figure.savefig(target, dpi=60)


def _range_series(url: str, panel: Panel, end: float, hours: float) -> dict[str, list[tuple[float, float]]]:
    about = {"start": end - hours * 3600, "end": end, "step": hours * 3600 / _STEPS}
    return _series(url, "query_range", panel, about, hours)


def _instant(url: str, panel: Panel, end: float, hours: float) -> dict[str, list[tuple[float, float]]]:
    return _series(url, "query", panel, {"time": end}, hours)


def fill_in(expression: str, hours: float = _DAY) -> str:
    """A panel's query with Grafana's variables filled in, for a picture of so many hours."""
    seconds = round(hours * 3600)
    values = {"$__rate_interval": f"{max(15, seconds // 96)}s", "$__range": f"{seconds}s", "$node": ".*"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression


def _series(
    url: str, what: str, panel: Panel, about: Mapping[str, float], hours: float
) -> dict[str, list[tuple[float, float]]]:
    found = {}
    for expression, legend in panel.queries:
        query = fill_in(expression, hours)
        asked = urllib.parse.urlencode({"query": query, **about})
        with urllib.request.urlopen(f"{url}/api/v1/{what}?{asked}", timeout=30) as answer:
            results = json.load(answer)["data"]["result"]
        for result in results:
            values = result.get("values") or [result["value"]]
            found[_legend(legend, result["metric"])] = [(float(at), float(value)) for at, value in values]
    return found


def _legend(legend: str, labels: Mapping[str, Any]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: str(labels.get(match[1], "")), legend) or "value"


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 5:
        sys.exit("usage: python -m hack.dashboard_png URL FILE.png [END [HOURS]]")
    end, hours = [*map(float, sys.argv[3:]), *(time.time(), _DAY)[len(sys.argv) - 3 :]]
    draw(sys.argv[1], sys.argv[2], end, hours)
