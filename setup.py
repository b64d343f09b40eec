"""Generates `agent/control/v1` from `proto/` whenever the package is built or installed; all else is in pyproject.toml.

protoc lays modules out as their package is named (`lighterage.v1`); ours live below `agent.control`, so the imports
between them are rewritten.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

_ROOT = Path(__file__).resolve().parent
_PROTO = _ROOT / "proto"
_TARGET = _ROOT / "agent" / "control" / "v1"
_DOCSTRING = '"""Made from proto/lighterage/v1 when the package is built; edit those."""\n'
_PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")


class BuildWithProto(build_py):
    """`build_py` after protoc."""

    def run(self) -> None:
        """Also runs for editable installs."""
        generate()
        super().run()


def generate() -> None:
    """Make the modules anew."""
    from grpc_tools import protoc  # noqa: PLC0415  # there at build time only

    well_known = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"--{kind}_out={folder}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        arguments += [f"--plugin={name}={_program(name)}" for name in _PLUGINS]
        files = sorted(str(path) for path in _PROTO.rglob("*.proto"))
        if protoc.main(["protoc", f"-I{_PROTO}", f"-I{well_known}", *arguments, *files]) != 0:
            raise SystemExit("protoc could not translate proto/")
        shutil.rmtree(_TARGET, ignore_errors=True)
        _TARGET.mkdir(parents=True)
        (_TARGET / "__init__.py").write_text(_DOCSTRING)
        for path in sorted((Path(folder) / "lighterage" / "v1").iterdir()):
            text = re.sub(r"^((?:from|import) )lighterage\.v1\b", r"\1agent.control.v1", path.read_text(), flags=re.M)
            (_TARGET / path.name).write_text(text)


def _program(name: str) -> str:
    places = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise SystemExit(f"{name} of mypy-protobuf is not installed")
    return found


setup(cmdclass={"build_py": BuildWithProto})
