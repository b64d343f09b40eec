"""What the chart and the manifests make."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, cast

import yaml

from agent.testing.control_plane import Manifest
from agent.testing.control_plane_process import tool

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CHART = DEPLOY / "helm" / "lighterage"


def chart(values: dict[str, Any], folder: Path, namespace: str) -> list[Manifest]:
    """Of the chart, with these values, which are kept in `folder`."""
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    command = [tool("helm"), "template", "lighterage", CHART, "--namespace", namespace, "--values", file]
    return objects(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def objects(text: str) -> list[Manifest]:
    """Of a file with several documents."""
    return [cast(Manifest, one) for one in yaml.safe_load_all(text) if one]
