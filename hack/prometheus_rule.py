"""Write deploy/observability/prometheusrule.yaml from rules.yaml: `python -m hack.prometheus_rule`.

A test compares the file with what this makes.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "observability"
RULES = FOLDER / "rules.yaml"
TARGET = FOLDER / "prometheusrule.yaml"

_HEAD = """\
# Made by `python -m hack.prometheus_rule` from rules.yaml; edit that.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: lighterage
spec:
"""


def render() -> str:
    """The file."""
    return _HEAD + textwrap.indent(RULES.read_text(encoding="utf-8"), "  ")


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
