"""The chart, as helm makes objects of it without a cluster."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from agent.testing.control_plane import Manifest
from agent.testing.control_plane_process import tool

_CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "lighterage"


def chart(values: Mapping[str, Any], namespace: str, folder: Path) -> list[Manifest]:
    """What an installation with these values consists of; `folder` is for a file."""
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    command = [tool("helm"), "template", "lighterage", _CHART, "--namespace", namespace, "--values", file]
    return objects(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def objects(text: str) -> list[Manifest]:
    """Those of a stream of YAML documents."""
    return [cast(Manifest, one) for one in yaml.safe_load_all(text) if one]
