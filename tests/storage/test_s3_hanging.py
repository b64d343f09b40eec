"""Commands on a store that has stopped answering: one interrupt ends them, a documented time ends them by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.base.errors import CanceledError
from agent.testing.s3_server import SeaweedServer
from agent.testing.tcp_proxy import TcpFaults, TcpProxy
from agent.testing.trees import Folder, noise, plant

pytestmark = pytest.mark.s3

BUCKET = "hanging"
SCRIPT = "from agent.cli.main import main; main()"
SILENT = TcpFaults(stall_down_after=0)
MID_BODY = TcpFaults(stall_down_after=1 << 20)
COMMANDS = {
    "restore": ("restore", "latest", "{target}"),
    "verify": ("verify",),
    "cat": ("cat", "latest/large"),
    "backup": ("backup", "{more}"),
}


@dataclass(frozen=True)
class Place:
    """Commands on the repository in `BUCKET`, through a proxy. `folder` has what was backed up, and something else."""

    proxy: TcpProxy
    environment: dict[str, str]
    folder: Path

    async def start(self, *args: str) -> asyncio.subprocess.Process:
        words = [word.format(target=self.folder / "target", more=self.folder / "more") for word in args]
        return await asyncio.create_subprocess_exec(
            *command_line(self.proxy.endpoint, words),
            env=self.environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )


def command_line(endpoint: str, words: Sequence[str]) -> list[str]:
    url = f"s3://{BUCKET}?endpoint={endpoint}&region=us-east-1"
    return [sys.executable, "-c", SCRIPT, *words, f"--repo={url}", "--no-cache"]


@pytest.fixture(scope="module")
def environment(seaweed: SeaweedServer) -> dict[str, str]:
    return {**os.environ, **seaweed.environment, "LIGHTER_PASSWORD": "static-passw0rd"}


@pytest.fixture(scope="module")
def folder(seaweed: SeaweedServer, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hanging")
    plant(folder / "data", Folder({b"large": noise(4 << 20, 1)}))
    plant(folder / "more", Folder({b"more": noise(1 << 20, 2)}))
    seaweed.create_bucket(BUCKET)
    for words in (["repository", "create"], ["backup", str(folder / "data")]):
        subprocess.run(command_line(seaweed.endpoint, words), env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture
async def place(seaweed: SeaweedServer, environment: dict[str, str], folder: Path) -> AsyncIterator[Place]:
    async with TcpProxy(seaweed.port) as proxy:
        yield Place(proxy, environment, folder)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # of another process
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
async def test_one_interrupt_ends_a_command_whose_store_never_answers(place: Place, command: tuple[str, ...]) -> None:
    place.proxy.faults, before = SILENT, place.proxy.connections
    process = await place.start(*command)
    await until(lambda: place.proxy.connections > before)
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == CanceledError.exit_status, errors
    assert b"[canceled]" in errors
    assert b"saving" not in errors


@pytest.mark.parametrize("command", [COMMANDS["restore"], COMMANDS["verify"], COMMANDS["cat"]], ids=" ".join)
async def test_one_interrupt_ends_a_command_whose_store_stops_in_the_middle_of_a_pack(
    place: Place, command: tuple[str, ...]
) -> None:
    place.proxy.faults, before = MID_BODY, place.proxy.bytes_down
    process = await place.start(*command)
    await until(lambda: place.proxy.bytes_down - before > MID_BODY.stall_down_after // 2)
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == CanceledError.exit_status, errors
