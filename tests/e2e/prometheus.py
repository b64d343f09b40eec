"""Prometheus as a user runs it without its operator: scrapes the agents, evaluates the project's rules.

Debian's program, as a process of the test's own beside the cluster; every second instead of every half minute.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest
import urllib3

from tests.e2e.cluster import VELERO_NAMESPACE, Cluster

RULES: Final = Path(__file__).resolve().parent.parent.parent / "deploy" / "observability" / "rules.yaml"


class Prometheus:
    """One that runs, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant vector. Raises `AssertionError` with what Prometheus says of the expression."""
        answer = self._get("query", query=expression)
        return list(answer["result"])

    def rules(self) -> list[dict[str, Any]]:
        """Each with `name`, `health`, `lastError`, `evaluationTime`, …."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        return {alert["labels"]["alertname"] for alert in self._get("alerts")["alerts"] if alert["state"] == "firing"}

    def _get(self, what: str, **parameters: str) -> Any:
        answer = urllib3.request("GET", f"{self.url}/api/v1/{what}", fields=parameters, timeout=30)
        assert answer.status == HTTPStatus.OK, f"{what} {parameters}: {answer.data.decode(errors='replace')}"
        return answer.json()["data"]


@contextmanager
def run_prometheus(cluster: Cluster, folder: Path) -> Iterator[Prometheus]:
    """Run until the end of the context."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.fail("no prometheus: hack/system-packages prometheus")
    (folder / "prometheus.json").write_text(json.dumps(_configuration(cluster)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        program,
        f"--config.file={folder / 'prometheus.json'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with open(folder / "log", "wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            url = f"http://{address}"
            cluster.wait("Prometheus is ready", 60, lambda: _is_ready(url), show=(folder / "log").read_text)
            yield Prometheus(url)
        finally:
            process.terminate()


def _is_ready(url: str) -> bool:
    try:
        return urllib3.request("GET", f"{url}/-/ready", timeout=5, retries=False).status == HTTPStatus.OK
    except urllib3.exceptions.HTTPError:
        return False


def _configuration(cluster: Cluster) -> dict[str, Any]:
    """What deploy/observability/podmonitor.yaml asks the operator for; Debian's program cannot look for pods itself."""
    agents = cluster.list("Pod", VELERO_NAMESPACE, "name=node-agent,role=node-agent")
    targets = [
        {"targets": [f"{agent['status']['podIP']}:8085"], "labels": {"node": agent["spec"]["nodeName"]}}
        for agent in agents
    ]
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "lighterage", "honor_labels": True, "static_configs": targets}],
    }
