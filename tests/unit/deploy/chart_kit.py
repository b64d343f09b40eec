"""What the tests of manifests share: where they are, and the chart rendered to objects by kind and name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
CHART = DEPLOY / "helm" / "lighterage"

Json = dict[str, Any]
Objects = dict[tuple[str, str], Json]
Render = Callable[..., Objects]
