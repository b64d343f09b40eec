"""What both ways to an image (`hack/image`, `Dockerfile`) do to installed packages: prune, compile, add commands.

`python packages.py /root` does all of it to an image's root folder. Only the standard library is used.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Final

VERSION: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"
LIBRARY: Final = Path("usr/local/lib") / VERSION
PACKAGES: Final = LIBRARY / "site-packages"
BIN: Final = Path("usr/local/bin")

_SERVICES_KEPT: Final = frozenset({"s3", "sts", "sso", "sso-oidc"})
"""Of botocore: the store, and the ways to credentials."""
_LEFT_OUT: Final = (
    "tests",
    "test",
    "*.pyi",
    "*.pxd",
    "*.pyx",
    "*.c",
    "*.h",
    "bin",
    "native",
    "direct_url.json",
    "RECORD",
)
"""Tests, sources of compiled modules, commands made for another interpreter, where a wheel came from, what it had."""


def prune(packages: Path) -> None:
    """Remove what an agent never loads."""
    for service in (packages / "botocore" / "data").glob("*/"):
        if service.name not in _SERVICES_KEPT:
            shutil.rmtree(service)
    for pattern in _LEFT_OUT:
        for path in [*packages.rglob(pattern)]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    # Generated, loaded on demand, and not used: the agent has its own views of the objects.
    for generated in ("api", "models"):
        for module in packages.glob(f"kubernetes/**/client/{generated}/[!_]*.py"):
            module.unlink()


def compile_below(root: Path, folder: Path) -> None:
    """Byte code that is never checked against its source, and the same for the same source."""
    command = [sys.executable, "-m", "compileall", "-q", "-q", "--invalidation-mode=unchecked-hash"]
    # The seed fixes the order of sets among constants.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    subprocess.run([*command, "-s", root, "-p", "/", folder], check=False, env=environment, stdout=sys.stderr)


def write_commands(root: Path) -> None:
    """`lighter`, and `/velero`: the command of the manifest that `velero install --use-node-agent` makes."""
    (declared,) = (root / PACKAGES).glob("lighterage-*.dist-info/entry_points.txt")
    points = ConfigParser()
    points.read(declared)
    (root / BIN).mkdir(parents=True, exist_ok=True)
    commands = {root / BIN / name: entry for name, entry in points["console_scripts"].items()}
    # Only here: elsewhere it would stand before Velero's own program.
    commands[root / "velero"] = "agent.cli.start:velero"
    for place, entry in commands.items():
        module, _, function = entry.partition(":")
        lines = [
            f"#!/{BIN / VERSION}",
            "import sys",
            f"from {module} import {function}",
            "",
            f"sys.exit({function}())",
            "",
        ]
        place.write_text("\n".join(lines))
        place.chmod(0o755)


if __name__ == "__main__":
    image = Path(sys.argv[1])
    prune(image / PACKAGES)
    compile_below(image, image / PACKAGES)
    write_commands(image)
