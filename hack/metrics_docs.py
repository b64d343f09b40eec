"""Write docs/metrics.md from the list of metrics and the values of their labels: `python -m hack.metrics_docs`.

The list is tests/unit/observe/metrics.tsv, which a test holds to what an agent exports; another compares the file with
what this makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.observe.metrics import ENDS, KINDS, PHASES, STATES
from agent.observe.worker_metrics import OPERATIONS, REQUESTS

_ROOT = Path(__file__).resolve().parent.parent
LIST = _ROOT / "tests" / "unit" / "observe" / "metrics.tsv"
TARGET = _ROOT / "docs" / "metrics.md"

_INTRO = """\
# Metrics

<!-- Made by `python -m hack.metrics_docs` from the metrics themselves; edit those. -->

`/metrics` on port 8085 (`--metrics-address`), in Prometheus' text format. Times are seconds, sizes bytes. What workers
did stays counted when they end. Of jobs in mover pods progress is counted as it comes, and everything else (bytes,
requests, retries, caches) at the end, from the pod's termination message; the most memory that they were seen with is
shown then, for a minute. When a pod dies without a message, as with its node, these are lost, and where a job met more
kinds of errors than fit in the message, the durations and counts of its requests are. Of stock pods only progress is
known. The number of series is bounded: only the largest volumes have series of their own, codes and statuses beyond a
limit are `other`.

Dashboard, alerts and monitors are in `deploy/observability` and in the chart; [runbooks](runbooks/README.md) has a page
for each alert. They expect the scrape job to be named `lighterage`, targets with a label `node`, and `honor_labels`.
`process_*` are there too.

## Labels
"""

_VELERO = """\
## Velero's names

Those of the stock agent, with the same labels and meaning, so that dashboards go on working. Of the latency, the last
200 pod volume backups are kept.
"""


def render() -> str:
    """The whole document."""
    ours = [row for row in rows() if row[0].startswith("lighterage_")]
    stock = [row for row in rows() if not row[0].startswith("lighterage_")]
    return "\n".join([_INTRO, _labels(), "## Ours\n", _table(ours), _VELERO, _table(stock)])


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Name, type, labels and help text of each metric."""
    for line in LIST.read_text(encoding="utf-8").splitlines():
        name, kind, labels, text = line.split("\t")
        yield name, kind, labels, text


def _labels() -> str:
    values = (
        ("`kind`", KINDS),
        ("`state`", STATES),
        ("`phase`", PHASES),
        ("`outcome` of jobs", ENDS),
        ("`outcome` of files and searches", ("done", "failed")),
        ("`operation` on volumes", OPERATIONS),
        ("`operation` on object stores", REQUESTS),
    )
    lines = [f"| {name} | {_quoted(some)} |" for name, some in values]
    lines.append("| `code`, `status` | codes of [errors](troubleshooting.md); of requests also `ok` and `canceled` |")
    lines.append("| `namespace`, `volume` | the namespace of the volume, and its claim or its name in the pod |")
    return "\n".join(["| label | values |", "|---|---|", *lines, ""])


def _quoted(values: tuple[str, ...]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _table(some: list[tuple[str, str, str, str]]) -> str:
    lines = [
        f"| `{name}` | {kind} | {_quoted(tuple(labels.split(','))) if labels else ''} | {text} |"
        for name, kind, labels, text in some
    ]
    return "\n".join(["| metric | type | labels | |", "|---|---|---|---|", *lines, ""])


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
