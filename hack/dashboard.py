"""Write deploy/observability/dashboard.json, for Grafana, from the table of panels here: `python -m hack.dashboard`.

A test compares the file with what this makes, and every query with the metrics that the agent exports.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "deploy" / "observability" / "dashboard.json"

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24
_HEIGHT = 8
_HERE = 'job="lighterage",node=~"$node"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: queries with their legends, in a unit of Grafana's."""

    title: str
    text: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8


def _rate(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{_HERE}{more}}}[$__rate_interval]))"


def _sum(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) ({metric}{{{_HERE}{more}}})"


def _quantile(part: float, metric: str, by: str) -> str:
    return f"histogram_quantile({part}, {_rate(metric + '_bucket', by + ', le')})"


def _in_range(metric: str, more: str = "", by: str = "") -> str:
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (increase({metric}{{{_HERE}{more}}}[$__range]))"


def _new_in_range(metric: str, by: str) -> str:
    """As `_in_range`, for series that begin with 1 and not with 0, of which increase() sees nothing at first."""
    samples = f"{metric}{{{_HERE}}}"
    return f"sum by ({by}) ((increase({samples}[$__range]) > 0) or ({samples} unless {samples} offset $__range))"


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "At a glance",
        (
            Panel(
                "Agents that take work",
                "Of all that are scraped.",
                (
                    (f"sum(lighterage_ready{{{_HERE}}})", "ready"),
                    (f"count(lighterage_build_info{{{_HERE}}})", "all"),
                ),
                kind="stat",
                width=4,
            ),
            Panel(
                "Jobs that run",
                "On all nodes shown.",
                ((f'sum(lighterage_jobs{{{_HERE},state="running"}})', ""),),
                kind="stat",
                width=4,
            ),
            Panel(
                "Objects that wait",
                "For a node to take them.",
                ((f'sum(lighterage_jobs{{{_HERE},state="waiting"}})', ""),),
                kind="stat",
                width=4,
            ),
            Panel(
                "Completed",
                "In the time shown.",
                ((_in_range("lighterage_jobs_ended_total", ',outcome="Completed"'), ""),),
                kind="stat",
                width=4,
            ),
            Panel(
                "Failed",
                "In the time shown.",
                ((_in_range("lighterage_jobs_ended_total", ',outcome="Failed"'), ""),),
                kind="stat",
                width=4,
            ),
            Panel(
                "Mistakes in ConfigMaps",
                "Agents that go on with an older configuration.",
                ((f"count(lighterage_configuration_valid{{{_HERE}}} == 0) or vector(0)", ""),),
                kind="stat",
                width=4,
            ),
        ),
    ),
    (
        "Jobs",
        (
            Panel("Running and waiting", "By kind.", ((_sum("lighterage_jobs", "kind, state"), "{{kind}} {{state}}"),)),
            Panel(
                "Ended",
                "By what became of them.",
                ((_in_range("lighterage_jobs_ended_total", by="kind, outcome"), "{{kind}} {{outcome}}"),),
                kind="bargauge",
            ),
            Panel(
                "Errors by code",
                "docs/troubleshooting.md says what each code means.",
                ((_new_in_range("lighterage_errors_total", "code"), "{{code}}"),),
                kind="bargauge",
            ),
            Panel(
                "From the object to its start",
                "Median and slowest tenth.",
                (
                    (_quantile(0.5, "lighterage_job_queue_duration_seconds", "kind"), "{{kind}} p50"),
                    (_quantile(0.9, "lighterage_job_queue_duration_seconds", "kind"), "{{kind}} p90"),
                ),
                unit="s",
            ),
            Panel(
                "Time in each phase",
                "Slowest tenth. Accepted is the time until a volume is accessible.",
                ((_quantile(0.9, "lighterage_job_phase_duration_seconds", "kind, phase"), "{{kind}} {{phase}}"),),
                unit="s",
            ),
            Panel(
                "Time of a job",
                "Slowest tenth, by what became of it.",
                ((_quantile(0.9, "lighterage_job_duration_seconds", "kind, outcome"), "{{kind}} {{outcome}}"),),
                unit="s",
            ),
        ),
    ),
    (
        "Data",
        (
            Panel(
                "Throughput",
                "Bytes of volumes, all jobs of a node together.",
                ((_sum("lighterage_throughput_bytes_per_second", "node, operation"), "{{node}} {{operation}}"),),
                unit="binBps",
            ),
            Panel(
                "Volumes",
                "Read by backups, taken over unread, in the repository already, written by restores.",
                (
                    (_rate("lighterage_read_bytes_total", "job"), "read"),
                    (_rate("lighterage_reused_bytes_total", "job"), "taken over"),
                    (_rate("lighterage_deduplicated_bytes_total", "job"), "there already"),
                    (_rate("lighterage_written_bytes_total", "job"), "written"),
                ),
                unit="binBps",
            ),
            Panel(
                "Object stores",
                "After deduplication and compression.",
                (
                    (_rate("lighterage_uploaded_bytes_total", "job"), "up"),
                    (_rate("lighterage_downloaded_bytes_total", "job"), "down"),
                    (f"sum(lighterage_limit_upload_bytes_per_second{{{_HERE}}} > 0)", "limit up"),
                    (f"sum(lighterage_limit_download_bytes_per_second{{{_HERE}}} > 0)", "limit down"),
                ),
                unit="binBps",
            ),
            Panel(
                "Files",
                "And links; failed ones are left out.",
                ((_rate("lighterage_files_total", "operation, outcome"), "{{operation}} {{outcome}}"),),
                unit="ops",
            ),
            Panel(
                "Uploaded of what was read",
                "Low: most of it was in the repository already.",
                (
                    (
                        f"{_in_range('lighterage_uploaded_bytes_total')} / {_in_range('lighterage_read_bytes_total')}",
                        "",
                    ),
                ),
                unit="percentunit",
                kind="stat",
            ),
            Panel(
                "Largest volumes",
                "Bytes moved in the time shown.",
                (
                    (
                        f"topk(10, {_in_range('lighterage_volume_bytes_total', by='namespace, volume, operation')})",
                        "{{namespace}}/{{volume}} {{operation}}",
                    ),
                ),
                unit="bytes",
                kind="bargauge",
            ),
        ),
    ),
    (
        "Object stores",
        (
            Panel(
                "Requests",
                "By operation and what became of them.",
                ((_rate("lighterage_storage_requests_total", "operation, status"), "{{operation}} {{status}}"),),
                unit="reqps",
            ),
            Panel(
                "Latency",
                "Median and slowest hundredth, retries included.",
                (
                    (_quantile(0.5, "lighterage_storage_request_duration_seconds", "operation"), "{{operation}} p50"),
                    (_quantile(0.99, "lighterage_storage_request_duration_seconds", "operation"), "{{operation}} p99"),
                ),
                unit="s",
            ),
            Panel(
                "Retries",
                "By operation and the code of the error.",
                ((_rate("lighterage_storage_retries_total", "operation, code"), "{{operation}} {{code}}"),),
                unit="reqps",
            ),
            Panel(
                "Local caches",
                "What was looked for in them: found, or got from the store.",
                ((_rate("lighterage_cache_lookups_total", "cache, outcome"), "{{cache}} {{outcome}}"),),
                unit="ops",
            ),
        ),
    ),
    (
        "Agents",
        (
            Panel(
                "Memory of workers",
                "All of a node together, the largest, and what one may have.",
                (
                    (_sum("lighterage_worker_memory_bytes", "node"), "{{node}} all"),
                    (_sum("lighterage_worker_memory_largest_bytes", "node"), "{{node}} largest"),
                    (f"max(lighterage_limit_worker_memory_bytes{{{_HERE}}} > 0)", "limit of one"),
                    (f"max(lighterage_limit_memory_bytes{{{_HERE}}} > 0)", "limit of all"),
                ),
                unit="bytes",
            ),
            Panel(
                "Workers",
                "And how many jobs may run.",
                (
                    (_sum("lighterage_workers", "node"), "{{node}}"),
                    (f"max(lighterage_limit_jobs{{{_HERE}}})", "limit"),
                ),
            ),
            Panel(
                "Left behind",
                "What was found of ended jobs and removed, and searches that failed.",
                (
                    (_new_in_range("lighterage_orphans_removed_total", "resource"), "{{resource}}"),
                    (_in_range("lighterage_orphan_sweeps_total", ',outcome="failed"'), "failed searches"),
                ),
                kind="bargauge",
            ),
            Panel(
                "Releases",
                "Agents by their release.",
                ((f"count by (version) (lighterage_build_info{{{_HERE}}})", "{{version}}"),),
                kind="bargauge",
            ),
            Panel(
                "By Velero's own names",
                "As the stock agent counts.",
                (
                    (_in_range("podVolume_data_upload_success_total"), "uploads"),
                    (_in_range("podVolume_data_upload_failure_total"), "failed uploads"),
                    (_in_range("podVolume_data_download_success_total"), "downloads"),
                    (_in_range("podVolume_data_download_failure_total"), "failed downloads"),
                    (_in_range("podVolume_pod_volume_backup_dequeue_count"), "pod volume backups"),
                ),
                kind="bargauge",
            ),
            Panel(
                "Limit of requests",
                "To object stores, all jobs of a node together; nothing: no limit.",
                ((f"max(lighterage_limit_requests_per_second{{{_HERE}}} > 0)", "limit"),),
                unit="reqps",
            ),
        ),
    ),
)


def render() -> str:
    """The file."""
    dashboard = {
        "title": "Lighterage",
        "uid": "lighterage",
        "description": "Agents that move volume data for Velero: jobs, data, object stores. Runbooks: docs/runbooks.",
        "tags": ["velero", "backup"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-24h", "to": "now"},
        "refresh": "1m",
        "templating": {"list": [_source_variable(), _node_variable()]},
        "panels": list(_panels()),
    }
    return json.dumps(dashboard, indent=2) + "\n"


def _source_variable() -> dict[str, object]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}


def _node_variable() -> dict[str, object]:
    query = 'label_values(lighterage_ready{job="lighterage"}, node)'
    return {
        "name": "node",
        "type": "query",
        "label": "Node",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "node"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> Iterator[dict[str, object]]:
    number = y = 0
    for title, panels in ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": _place(0, y, _WIDTH, 1),
        }
        x, y = 0, y + 1
        height = _HEIGHT
        for panel in panels:
            height = _HEIGHT // 2 if panel.width < _HEIGHT else _HEIGHT
            if x + panel.width > _WIDTH:
                x, y = 0, y + height
            number += 1
            yield _panel(number, panel, _place(x, y, panel.width, height))
            x += panel.width
        y += height


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, object]:
    at_once = panel.kind != "timeseries"
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": _SOURCE,
            "expr": query,
            "legendFormat": legend,
            "instant": at_once,
            "range": not at_once,
        }
        for index, (query, legend) in enumerate(panel.queries)
    ]
    options: dict[str, object] = {"legend": {"displayMode": "list", "placement": "bottom"}}
    if at_once:
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "orientation": "horizontal"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": options,
        "targets": targets,
    }


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
