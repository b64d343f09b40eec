"""Fixtures that several tiers share."""

import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from agent.testing import loop_device
from tests import checks

_ROOT = Path(__file__).resolve().parent.parent

# Machines that run tests are shared: how long an example took says nothing. In CI the examples are always the same.
settings.register_profile(
    "lighterage",
    deadline=None,
    derandomize=os.environ.get("CI", "").lower() == "true",
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("lighterage")


def pytest_configure(config: pytest.Config) -> None:
    checks.register(config)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden repositories and vectors written by a real kopia.

    `LIGHTERAGE_GOLDEN` names it; by default it lies beside the checkout, in `../shared/golden`.
    """
    folder = Path(os.environ.get("LIGHTERAGE_GOLDEN", _ROOT.parent / "shared" / "golden"))
    if not (folder / "vectors.json").is_file():
        pytest.fail(f"no golden data in {folder}; set LIGHTERAGE_GOLDEN to the folder that holds vectors.json")
    return folder


@pytest.fixture
def golden_repository(golden: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    """`golden_repository("small-v3")` unpacks a fresh copy, storage times kept, and returns its folder."""

    def unpack(name: str) -> Path:
        tar_name, _, _inner = name.partition("/")
        with tarfile.open(golden / "repos" / f"{tar_name}.tar") as tar:
            tar.extractall(tmp_path / "golden", filter="fully_trusted")
        return tmp_path / "golden" / name

    return unpack


@pytest.fixture
def attached() -> Iterator[Callable[[Path], Path]]:
    """`attached(file)` is the block device over a file until the test ends. The test fails where there can be none."""
    if loop_device.declared_absent():
        pytest.skip(f"{loop_device.ABSENT} is set")
    with ExitStack() as devices:
        yield lambda backing: devices.enter_context(loop_device.loop_device(backing))
