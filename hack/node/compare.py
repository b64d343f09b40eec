"""`make cluster-bench`: our agent and Velero's own on the same cluster, turn about on the same data (ROUNDS=3).

Seconds are those of the objects that move data, from their creation by Velero to their final phase, so that Velero's
own work counts for nobody; a watch sees them, and the phases between. Each row restores what it has backed up, and
compares it. What was measured so far is told on standard error; the table of medians comes last, on standard output.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from hack.node.audit import Requests
from hack.node.phases import watching
from tests.e2e.agent_switch import OURS, STOCK, AgentSwitch
from tests.e2e.cluster import Cluster
from tests.e2e.velero import MOVE, MOVEMENTS, Velero
from tests.e2e.workload import Volume, Workload, differences

_AGENTS: Final = {"stock": STOCK, "ours": OURS}
_NAMES: Final = {"stock": "Velero's agent", "ours": "Lighterage"}
_PATIENCE: Final = 3600
"""Seconds; one agent may take much longer than the other."""
_STEPS: Final = "accept + prepare + start + move"


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of backup: what lies in its volumes, one after the other."""

    key: str
    name: str
    volumes: tuple[str, ...]
    restores: bool = True


_ROWS: Final = (
    Row("small", "one volume, 200 files, 2 MB", ("small",)),
    Row("large", "one volume, 4 x 256 MiB random", ("huge",)),
    Row("many", "one volume, 20,000 x 4 KiB", ("many",)),
    Row("mixed", "30 volumes: 27 of 2 MB, 3 of 192 MiB", ("large", *["small"] * 9) * 3),
    Row("hundreds", "200 volumes of one small file", ("tiny",) * 200, restores=False),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One way of one run."""

    seconds: float
    steps: tuple[float, ...]
    """Of the objects' medians."""
    requests: int
    pods: int

    def __str__(self) -> str:
        return f"{self.seconds:.1f} ({' + '.join(f'{step:.1f}' for step in self.steps)})"


class Bench:
    """All measurements, by row, agent and way."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._velero = Velero(cluster)
        self._log = Path(os.environ.get("LIGHTERAGE_CLUSTER_RUN", "")) / "log" / "audit.log"
        self.found: dict[tuple[str, str], list[tuple[Measured, ...]]] = {}

    def measure(self, row: Row, agent: str) -> None:
        """Back up, lose, restore, compare."""
        name = f"bench-{row.key}-{agent}-{int(time.time())}"
        app = Workload(self._cluster, name, [Volume(f"files-{n:02d}") for n in range(len(row.volumes))])
        app.deploy(300)
        for number, (volume, kind) in enumerate(zip(app.volumes, row.volumes, strict=True)):
            app.make(volume.name, kind, seed=number)
        app.shell("sync")
        before = app.content() if row.restores else {}
        backup = self._watched(lambda: self._velero.backup(name, name, MOVE, seconds=_PATIENCE), backup=name)
        self._cluster.delete_namespaces([name], seconds=900)
        if not row.restores:
            self._note(row, agent, backup)
            return
        restore = self._watched(lambda: self._velero.restore(name, name, seconds=_PATIENCE), restore=name)
        app.wait_until_running(300)
        wrong = differences(before, app.content(), by_stock=agent == "stock")
        self._cluster.delete_namespaces([name], seconds=900)
        if wrong:
            raise SystemExit("\n".join([f"{row.name}, {agent}: not equal", *wrong[:20]]))
        self._note(row, agent, backup, restore)

    def _note(self, row: Row, agent: str, *ways: Measured) -> None:
        self.found.setdefault((row.key, agent), []).append(ways)
        told = ", ".join(f"{name} {way}" for name, way in zip(("backup", "restore"), ways, strict=False))
        print(f"{row.name}, {agent}: {told}", file=sys.stderr, flush=True)

    def _watched(self, work: Callable[[], None], *, backup: str = "", restore: str = "") -> Measured:
        requests = Requests(self._log)
        with watching(self._cluster, MOVEMENTS) as seen:
            old = set(seen.pods)
            work()
            moved = [(found.kind, found.name) for found in self._velero.movements(backup=backup, restore=restore)]
            self._cluster.wait("the watch has seen every end", 30, lambda: all(map(seen.has_ended, moved)))
        steps = zip(*(seen.steps(*name) for name in moved), strict=True)
        pods = {pod for pod in seen.pods - old if not pod.startswith("velero-")}
        return Measured(seen.seconds(moved), tuple(map(median, steps)), requests.of_data_movement(), len(pods))

    def lines(self) -> list[str]:
        """The table, in Markdown."""
        lines = [
            f"| | agent | backup, s ({_STEPS}) | restore, s ({_STEPS}) | requests | pods |",
            "|---|---|---|---|---|---|",
        ]
        for row in _ROWS:
            for agent in _AGENTS:
                if runs := self.found.get((row.key, agent)):
                    ways = [_median(way) for way in zip(*runs, strict=True)]
                    requests, pods = (
                        " + ".join(str(getattr(way, what)) for way in ways) for what in ("requests", "pods")
                    )
                    times = " | ".join(map(str, ways)) if row.restores else f"{ways[0]} | –"
                    lines.append(f"| {row.name} | {_NAMES[agent]} | {times} | {requests} | {pods} |")
        return lines


def _median(runs: Sequence[Measured]) -> Measured:
    steps = tuple(map(median, zip(*(run.steps for run in runs), strict=True)))
    requests, pods = (round(median(getattr(run, what) for run in runs)) for what in ("requests", "pods"))
    return Measured(median(run.seconds for run in runs), steps, requests, pods)


def main() -> None:
    rounds = int(os.environ.get("ROUNDS") or "3")
    wanted = os.environ.get("ROW", "").split() or [row.key for row in _ROWS]
    cluster = Cluster(os.environ["KUBECONFIG"])
    bench, agents = Bench(cluster), AgentSwitch(cluster)
    try:
        agents.be_patient()
        for turn in range(rounds):
            # Each agent goes first in every other round, so that switching is as rare as can be.
            for agent in sorted(_AGENTS, reverse=turn % 2 == 0):
                agents.use(_AGENTS[agent])
                for row in _ROWS:
                    if row.key in wanted:
                        bench.measure(row, agent)
    finally:
        agents.restore()
        print("\n".join([f"Medians; rounds: {rounds}.", "", *bench.lines()]), flush=True)


if __name__ == "__main__":
    main()
