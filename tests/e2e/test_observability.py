"""What the agent exports, seen by a Prometheus: alerts fire at what happens, rules and panels have series."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.dashboard import ROWS
from hack.dashboard_png import draw, fill_in
from tests.e2e.cluster import Cluster
from tests.e2e.direct import data_upload
from tests.e2e.location import WRONG, Location
from tests.e2e.prometheus import Prometheus, run_prometheus
from tests.e2e.velero import MOVE, Velero
from tests.e2e.workload import Workload

pytestmark = pytest.mark.disturbing
"""Alerts are of the whole cluster: what other tests break would fire, too."""

_HOURS = 0.1
_SILENT_ON_A_GOOD_DAY = frozenset({"Errors by code", "Retries", "Left behind", "Limit of requests"})
"""Panels of mishaps, and of a limit that nobody has set."""


@pytest.fixture
def prometheus(cluster: Cluster, tmp_path: Path) -> Iterator[Prometheus]:
    with run_prometheus(cluster, tmp_path) as running:
        yield running


@pytest.fixture
def location(app: Workload, cluster: Cluster) -> Iterator[Location]:
    made = Location(cluster, app.namespace)
    made.create(WRONG)
    yield made
    made.delete()


@pytest.mark.usefixtures("clean")
def test_failed_job_fires_its_alerts_and_no_rule_errs(
    app: Workload, cluster: Cluster, location: Location, prometheus: Prometheus
) -> None:
    cluster.wait("the agent is scraped", 60, lambda: prometheus.query('up{job="lighterage"} == 1'))
    cluster.wait("every rule is evaluated", 60, lambda: {rule["health"] for rule in prometheus.rules()} == {"ok"})
    before = prometheus.firing()
    data_upload(app, "files", location=location.name).wait_for("Failed", seconds=60)

    wanted = {"LighterageJobFailed"} - before

    def fire() -> bool:
        return wanted <= prometheus.firing()

    cluster.wait(f"{wanted} fire", 30, fire, show=lambda: f"{before=} now={prometheus.firing()}")
    assert [rule["name"] for rule in prometheus.rules() if rule["health"] != "ok"] == []


def test_panels_have_series_after_a_backup_and_a_restore(
    app: Workload, cluster: Cluster, prometheus: Prometheus, velero: Velero
) -> None:
    cluster.wait("the agent is scraped", 60, lambda: prometheus.query('up{job="lighterage"} == 1'))
    app.make("files", "large")
    velero.backup(app.namespace, app.namespace, MOVE)
    cluster.delete_namespaces([app.namespace])
    velero.restore(app.namespace, app.namespace)
    cluster.wait(
        "both are counted", 30, lambda: prometheus.query('sum(lighterage_jobs_ended_total{outcome="Completed"}) > 1')
    )

    if picture := os.environ.get("E2E_DASHBOARD"):
        draw(prometheus.url, picture, time.time(), _HOURS)
    silent = {
        panel.title
        for _, row in ROWS
        for panel in row
        if not any(prometheus.query(fill_in(expression, _HOURS)) for expression, _ in panel.queries)
    }
    assert silent - _SILENT_ON_A_GOOD_DAY == set()
