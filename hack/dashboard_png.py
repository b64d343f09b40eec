"""Draw the dashboard from a Prometheus, without Grafana: `python -m hack.dashboard_png http://127.0.0.1:9090 FILE.png`.

For looking at panels after a change of their queries. Needs matplotlib, which nothing else of the project does.
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

_HOURS = 24
_STEPS = 200
_COLUMNS = 3
_MOST_LINES = 12


def draw(url: str, target: str, end: float) -> None:
    """One picture of all panels over the day that ends at `end`, seconds since 1970."""
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    panels = [(title, panel) for title, row in ROWS for panel in row]
    lines = -(-len(panels) // _COLUMNS)
    figure, axes = pyplot.subplots(lines, _COLUMNS, figsize=(7 * _COLUMNS, 3 * lines), constrained_layout=True)
    for axis, (row, panel) in zip(axes.flat, panels, strict=False):
        axis.set_title(f"{row}: {panel.title} [{panel.unit}]", fontsize=9)
        series = _range_series(url, panel, end) if panel.kind == "timeseries" else _instant(url, panel, end)
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


def _range_series(url: str, panel: Panel, end: float) -> dict[str, list[tuple[float, float]]]:
    step = _HOURS * 3600 / _STEPS
    about = {"start": end - _HOURS * 3600, "end": end, "step": step}
    return _series(url, "query_range", panel, about)


def _instant(url: str, panel: Panel, end: float) -> dict[str, list[tuple[float, float]]]:
    return _series(url, "query", panel, {"time": end})


def _series(url: str, what: str, panel: Panel, about: Mapping[str, float]) -> dict[str, list[tuple[float, float]]]:
    found = {}
    for expression, legend in panel.queries:
        query = expression.replace("$__rate_interval", "15m").replace("$__range", f"{_HOURS}h").replace("$node", ".*")
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
    if len(sys.argv) not in {3, 4}:
        sys.exit("usage: python -m hack.dashboard_png URL FILE.png [END]")
    draw(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) == 4 else time.time())
