"""Layers of Python: the interpreter with its shared libraries; the pinned requirements; the project's wheel.

They are split by how often they change. What never runs in a container is left out: tests, the interactive tools of
the library, service descriptions of botocore other than the ones that are used. Byte code is in, as files that are not
checked against their source: the agent starts in less time, and runs with a read-only root file system.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

from hack.images.layer import Recipe, hash_of
from hack.images.libraries import copy_libraries, linked, strip
from hack.images.packages import BIN, LIBRARY, PACKAGES, VERSION, compile_below, prune, write_commands
from hack.node.layout import ROOT

_PREFIX: Final = Path(sys.base_prefix)
_LIBRARY_LEFT_OUT: Final = (
    "site-packages",
    "__pycache__",
    "test",
    "tests",
    "config-*",
    "curses",
    "dbm",
    "distutils",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "sqlite3",
    "tkinter",
    "turtle.py",
    "turtledemo",
    "venv",
    "_curses*",
    "_dbm*",
    "_gdbm*",
    "_sqlite3*",
    "_test*",
    "_ctypes_test*",
    "_tkinter*",
    "_xxtestfuzz*",
    "nis.*",
    "ossaudiodev*",
    "readline.*",
    "xxlimited*",
)
_SOURCE_FOLDERS: Final = ("agent", "proto")
_SOURCE_FILES: Final = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
_HERE: Final = Path(__file__).parent
"""How a layer is made is part of what it depends on."""
_CA_BUNDLES: Final = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))


def interpreter() -> Recipe:
    """The running interpreter's own tree below /usr/local, what it links to, and the system's authorities."""

    def fill(root: Path) -> None:
        (root / BIN).mkdir(parents=True)
        shutil.copyfile(_PREFIX / "bin" / VERSION, root / BIN / VERSION)
        (root / BIN / VERSION).chmod(0o755)
        (root / BIN / "python3").symlink_to(VERSION)
        library = _PREFIX / "lib" / VERSION
        shutil.copytree(library, root / LIBRARY, ignore=shutil.ignore_patterns(*_LIBRARY_LEFT_OUT), symlinks=True)
        compile_below(root, root / LIBRARY)
        binaries = [root / BIN / VERSION, *(root / LIBRARY).rglob("*.so")]
        strip(*binaries)
        copy_libraries(root, linked(binaries))
        if bundle := next(filter(Path.exists, _CA_BUNDLES), None):
            (root / "etc/ssl/certs").mkdir(parents=True)
            shutil.copyfile(bundle, root / "etc/ssl/certs/ca-certificates.crt")

    return Recipe("python", hash_of(sys.version, str(_PREFIX), _HERE), fill)


def requirements() -> Recipe:
    """What `requirements.lock` pins, as wheels, without what an agent never uses of them."""
    lock = ROOT / "requirements.lock"

    def fill(root: Path) -> None:
        packages = root / PACKAGES
        _pip("install", "--no-deps", "--only-binary=:all:", "--no-compile", "--target", packages, "-r", lock)
        prune(packages)
        strip(*packages.rglob("*.so"))
        compile_below(root, packages)
        copy_libraries(root, linked(packages.rglob("*.so*")), beyond=interpreter_libraries())

    return Recipe("requirements", hash_of(sys.version, lock, _HERE), fill)


def project() -> Recipe:
    """The project's own wheel, and a command for each of its entry points."""
    inputs = [ROOT / name for name in (*_SOURCE_FOLDERS, *_SOURCE_FILES)]

    def fill(root: Path) -> None:
        packages = root / PACKAGES
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "source"
            _copy_source(source)
            wheel = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, str(source)]
            # Without debugging information nothing in the module depends on where it was compiled.
            _pip(*wheel, environment={"CFLAGS": "-g0"})
            (built,) = Path(folder).glob("*.whl")
            _pip("install", "--no-deps", "--no-compile", "--target", packages, built)
        prune(packages)
        compile_below(root, packages)
        write_commands(root)

    return Recipe("lighterage", hash_of(sys.version, *inputs, _HERE), fill)


def _copy_source(target: Path) -> None:
    """The work tree without what was built in it."""
    target.mkdir()
    built = shutil.ignore_patterns("__pycache__", "*.so", "*.pyc")
    for name in _SOURCE_FOLDERS:
        shutil.copytree(ROOT / name, target / name, ignore=built)
    for name in _SOURCE_FILES:
        shutil.copyfile(ROOT / name, target / name)


def _pip(*arguments: str | Path, environment: dict[str, str] | None = None) -> None:
    """Raises `CalledProcessError`."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, **(environment or {})}, stdout=sys.stderr)


def interpreter_libraries() -> set[Path]:
    """What the interpreter's layer links to, and holds already."""
    extensions = Path(sysconfig.get_path("platstdlib")) / "lib-dynload"
    return linked([Path(sys.executable).resolve(), *extensions.glob("*.so")])
