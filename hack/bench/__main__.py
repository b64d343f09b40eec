"""`python -m hack.bench [--row DATASET]… [--store local|s3] [--rounds N]`: measure, then print the table."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from agent.testing.s3_server import SeaweedServer
from hack.bench import agents, datasets, report, sampler, tools

ROUNDS = 5
ROUNDS_WHEN_LONG = 3
LONG_S = 30.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured command, as a line of the results file."""

    dataset: str
    store: str
    action: str
    tool: str
    round: int
    wall_s: float
    cpu_s: float
    sync_s: float
    """Until what the command had left in the page cache was on disk."""
    peak_bytes: int
    peak_file_bytes: int
    requests: dict[str, int]
    stored_bytes: int
    exit_status: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where the repositories of one round lie, and who counts requests to them."""

    store: tools.Store
    server: SeaweedServer | None = None

    def requests(self) -> dict[str, int]:
        """So far, by kind; of a folder there are none."""
        return self.server.request_counts() if self.server else {}


class Bench:
    """One run over some data sets on one kind of store."""

    def __init__(self, work: Path, kind: str, results: Path) -> None:
        self._work = work
        self._kind = kind
        self._results = results
        self._kopia = subprocess.run(
            [Path(__file__).parents[1] / "tool", "kopia"], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()
        self._restic = tools.find("restic", "RESTIC")

    def done(self, dataset: str) -> set[int]:
        """Rounds of this data set that are complete in the results file."""
        rounds: dict[int, set[tuple[str, str]]] = {}
        for sample in report.samples_of(self._results):
            if (sample["dataset"], sample["store"]) == (dataset, self._kind):
                rounds.setdefault(sample["round"], set()).add((sample["tool"], sample["action"]))
        last = ("lighterage", "restore") if datasets.ALL[dataset].memory_only else ("cp -a", "restore")
        return {n for n, seen in rounds.items() if last in seen}

    def run(self, dataset: str, rounds: int) -> None:
        """All rounds of one data set that are not there yet."""
        source = datasets.provide(dataset, self._work)
        if datasets.ALL[dataset].memory_only:
            rounds = 1
        number = 0
        while number < rounds:
            if number not in self.done(dataset):
                with _place(self._kind, self._work) as place:
                    longest = self._round(dataset, source, number, place)
                if longest > LONG_S:
                    rounds = min(rounds, ROUNDS_WHEN_LONG)
            number += 1

    def _tools(self, dataset: str, number: int, store: tools.Store) -> list[tools.Tool]:
        shutil.rmtree(self._work / "home", ignore_errors=True)
        home = self._work / "home"
        run_id = f"{dataset}-{self._kind}-{number}"
        entrants: list[tools.Tool] = [
            tools.Lighter(store, home / "lighter", f"lighter-{run_id}"),
            tools.Kopia(self._kopia, store, home / "kopia", f"kopia-{run_id}"),
            tools.Restic(self._restic, store, home / "restic", f"restic-{run_id}"),
        ]
        turn = number % len(entrants)
        return entrants[turn:] + entrants[:turn]

    def _round(self, dataset: str, source: Path, number: int, place: Place) -> float:
        alone = datasets.ALL[dataset].memory_only
        entrants = [
            tool for tool in self._tools(dataset, number, place.store) if tool.name == "lighterage" or not alone
        ]
        samples: list[Sample] = []
        target = self._work / "restored"
        for tool in entrants:
            for command in tool.create():
                subprocess.run(command, env=dict(tool.environment()), check=True, capture_output=True)
        for action in ("first", "unchanged", "changed", "restore"):
            if action == "changed":
                datasets.ALL[dataset].change(source, Random(f"{dataset}-{number}"))
            for tool in entrants:
                shutil.rmtree(target, ignore_errors=True)
                command = tool.restore(source, target) if action == "restore" else tool.backup(source)
                environment = dict(tool.environment())
                samples.append(self._measure(dataset, action, tool.name, number, command, environment, place))
        shutil.rmtree(target, ignore_errors=True)
        if not alone:
            copy = ["cp", "-a", str(source), str(target)]
            samples.append(self._measure(dataset, "restore", "cp -a", number, copy, {"PATH": "/usr/bin:/bin"}, place))
            shutil.rmtree(target, ignore_errors=True)
        with self._results.open("a") as out:
            out.writelines(json.dumps(asdict(sample)) + "\n" for sample in samples)
        return max(sample.wall_s for sample in samples)

    def _measure(
        self,
        dataset: str,
        action: str,
        tool: str,
        number: int,
        command: list[str],
        environment: dict[str, str],
        place: Place,
    ) -> Sample:
        sampler.drop_page_cache()
        before = place.requests()
        usage = sampler.measure(command, environment, self._work)
        after = place.requests()
        if usage.exit_status != 0:
            raise SystemExit(
                f"bench: {tool} failed ({usage.exit_status}): {' '.join(command)}; see {self._work}/stderr.log"
            )
        requests = {kind: after[kind] - before.get(kind, 0) for kind in after if after[kind] != before.get(kind, 0)}
        print(
            f"{dataset} {action} {tool} round {number}: {usage.wall_s:.1f} s wall, {usage.cpu_s:.1f} s CPU, "
            f"{usage.peak_bytes / 1e6:.0f} MB",
            file=sys.stderr,
        )
        return Sample(
            dataset,
            self._kind,
            action,
            tool,
            number,
            usage.wall_s,
            usage.cpu_s,
            usage.sync_s,
            usage.peak_bytes,
            usage.peak_file_bytes,
            requests,
            _folder_bytes(place.store.folder),
            usage.exit_status,
        )


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def _place(kind: str, work: Path) -> Iterator[Place]:
    """An empty one: what a server was told to delete it keeps for hours, and three tools write 4 GiB each."""
    folder = work / "store"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        if kind == "local":
            yield Place(tools.Store(folder))
            return
        with SeaweedServer(folder) as server:
            server.create_bucket("bench")
            yield Place(tools.Store(folder, server.endpoint, server.access_key, server.secret_key), server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--row", action="append", choices=sorted([*datasets.ALL, agents.ROW]), help="only these")
    parser.add_argument("--store", choices=["local", "s3"], default="local")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--work", type=Path, default=Path("~/.cache/lighterage/bench").expanduser())
    parser.add_argument("--report-only", action="store_true", help="print the table of what was measured before")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if agents.ROW in (options.row or []):  # a table of its own, and only when asked for: it takes root
        counted = options.work / f"{agents.ROW}.jsonl"
        if not options.report_only:
            agents.keep(agents.measure(options.work / agents.ROW), counted)
        print(agents.table(counted))
        options.row.remove(agents.ROW)
        if not options.row:
            return
    results = options.work / "results.jsonl"
    if not options.report_only:
        bench = Bench(options.work, options.store, results)
        for row in options.row or list(datasets.ALL):
            bench.run(row, options.rounds)
    kopia = subprocess.run(
        [Path(__file__).parents[1] / "tool", "kopia"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    print(report.table(results, tools.versions(kopia, tools.find("restic", "RESTIC"))))


if __name__ == "__main__":
    main()
