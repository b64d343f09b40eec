"""Shared libraries that programs and modules of a layer load: found by this machine's loader, copied beside them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path


def strip(*binaries: Path) -> None:
    """Remove symbols that no loader needs; libraries that wheels bundle are left as their makers arranged them."""
    for binary in binaries:
        subprocess.run(["strip", "--strip-unneeded", binary], check=False, stderr=subprocess.DEVNULL)


def linked(binaries: Iterable[Path]) -> set[Path]:
    """The shared libraries of the system that binaries load, the loader included."""
    listed = subprocess.run(
        ["ldd", *binaries], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    )
    found = re.findall(r"(?:=> |^\t)(/\S+) \(0x", listed.stdout, re.MULTILINE)
    return {Path(path) for path in found}


def copy_libraries(root: Path, libraries: set[Path], beyond: Iterable[Path] = ()) -> None:
    """Each where the loader looks: its place here, or among the system's when it came with the interpreter."""
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    known = set(beyond)
    for library in sorted(libraries):
        if library in known or library.is_relative_to(root):
            continue
        of_interpreter = library.is_relative_to(Path(sys.base_prefix))
        place = Path("/lib") / triplet / library.name if of_interpreter else library
        target = root / place.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, target)
        target.chmod(0o755)
        if of_interpreter:
            strip(target)
