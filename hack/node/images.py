"""Image archives into containerd. Runs inside the namespaces."""

from __future__ import annotations

import subprocess
import time

from hack.node.daemons import StartFailed, say
from hack.node.layout import Layout
from hack.node.tools import system


def import_image(layout: Layout, name: str) -> str:
    """Import the archive `images/NAME.tar`, unless containerd has it, and return its digest. Raises `StartFailed`."""
    digest = (layout.images / f"{name}.digest").read_text().splitlines()[1]
    imported = layout.run / "imported"
    imported.mkdir(exist_ok=True)
    marker = imported / name
    if marker.exists() and marker.read_text() == digest:
        return digest
    started = time.monotonic()
    command = [str(system("ctr")), "--namespace=k8s.io", "images", "import", str(layout.images / f"{name}.tar")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise StartFailed(f"image {name}: {done.stdout.strip()[-2000:]}")
    marker.write_text(digest)
    say(f"{time.monotonic() - started:5.1f} s  image {name} is imported")
    return digest
