"""The table of `docs/benchmarks.md`, made from the results file and from nothing else; lost rows included."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hack.bench.datasets import ALL

_ACTIONS = {
    "first": "first backup",
    "unchanged": "second, unchanged",
    "changed": "third, 1 % changed",
    "restore": "restore",
}
_TOOLS = ("lighterage", "kopia", "restic", "cp -a")
_Key = tuple[str, str, str]


def samples_of(results: Path) -> list[dict[str, Any]]:
    """What was measured, command by command; without what an older bench measured, which lacks a figure."""
    lines = results.read_text().splitlines() if results.exists() else []
    return [sample for line in lines if "sync_s" in (sample := json.loads(line))]


def _medians(results: Path) -> dict[_Key, dict[str, dict[str, float]]]:
    samples: dict[_Key, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples_of(results):
        key = (sample["dataset"], sample["store"], sample["action"])
        samples[key][sample["tool"]].append(
            {
                "wall": sample["wall_s"],
                "cpu": sample["cpu_s"],
                "on disk": sample["wall_s"] + sample["sync_s"],
                "peak": sample["peak_bytes"] / 1e6,
                "requests": sum(sample["requests"].values()),
            }
        )
    return {
        key: {
            tool: {
                "rounds": len(runs),
                **{figure: statistics.median(run[figure] for run in runs) for figure in runs[0]},
            }
            for tool, runs in by_tool.items()
        }
        for key, by_tool in samples.items()
    }


def _cell(figures: Mapping[str, float] | None) -> str:
    if figures is None:
        return "–"
    cell = f"{figures['wall']:.1f} / {figures['cpu']:.1f} / {figures['peak']:.0f}"
    return f"{cell} / {figures['requests']:.0f}" if figures["requests"] else cell


def _ratio(ours: Mapping[str, float], theirs: Mapping[str, float] | None) -> str:
    if theirs is None:
        return "–"
    return " / ".join(f"{ours[figure] / theirs[figure]:.2f}" for figure in ("wall", "cpu", "peak") if theirs[figure])


def _on_disk(medians: Mapping[_Key, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Seconds until nothing of it was in the page cache alone: some tools wait for that, some leave it behind."""
    lines = [
        "wall s until all that was written is on disk: the command, then `sync`; medians.",
        "",
        f"| data | work | {' | '.join(_TOOLS)} | to kopia | to restic |",
        "|" + "---|" * (len(_TOOLS) + 4),
    ]
    for (dataset, store, action), by_tool in _sorted(medians):
        ours = by_tool.get("lighterage")
        if store != "local" or action not in ("first", "restore") or ours is None or "kopia" not in by_tool:
            continue
        cells = (f"{by_tool[tool]['on disk']:.1f}" if tool in by_tool else "–" for tool in _TOOLS)
        ratios = (f"{ours['on disk'] / by_tool[tool]['on disk']:.2f}" for tool in ("kopia", "restic"))
        lines.append(f"| {ALL[dataset].title} | {_ACTIONS[action]} | {' | '.join((*cells, *ratios))} |")
    return lines


def _sorted(
    medians: Mapping[_Key, Mapping[str, Mapping[str, float]]],
) -> list[tuple[_Key, Mapping[str, Mapping[str, float]]]]:
    """By store, then as the data sets and actions are declared."""
    return sorted(
        medians.items(),
        key=lambda item: (item[0][1], list(ALL).index(item[0][0]), list(_ACTIONS).index(item[0][2])),
    )


def table(results: Path, versions: Mapping[str, str]) -> str:
    """Markdown: medians per row, then our ratio to each competitor; then when it is on disk; then the machine."""
    lines = [
        "wall s / CPU s / peak MB (/ requests to the store); medians. Ratios: ours to theirs, wall / CPU / peak.",
        "",
        f"| data | work | store | rounds | {' | '.join(_TOOLS)} | to kopia | to restic |",
        "|" + "---|" * (len(_TOOLS) + 6),
    ]
    medians = _medians(results)
    for (dataset, store, action), by_tool in _sorted(medians):
        ours = by_tool.get("lighterage")
        if ours is None:
            continue
        cells = " | ".join(_cell(by_tool.get(tool)) for tool in _TOOLS)
        lines.append(
            f"| {ALL[dataset].title} | {_ACTIONS[action]} | {store} | {ours['rounds']:.0f} | {cells} "
            f"| {_ratio(ours, by_tool.get('kopia'))} | {_ratio(ours, by_tool.get('restic'))} |"
        )
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "?",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines += [
        "",
        *_on_disk(medians),
        "",
        f"Machine: {os.cpu_count()} × {cpu}, {memory:.0f} GiB, Linux {platform.release()}. "
        + f"Python {platform.python_version()}; "
        + "; ".join(f"{tool}: {version}" for tool, version in versions.items())
        + ".",
    ]
    return "\n".join(lines)
