"""Each block of shell in the README and the guides says where it is run, and is held to that.

The word after `sh` says it: `run` blocks are run here, line by line as they stand but for the folders that they name;
`cluster` blocks talk to a cluster, and `machine` blocks take the whole machine, so of these is tried what can be
without: that a shell takes them, that `lighter` takes their command lines, that what they name of this repository is
there. Of `cluster` blocks, tests/controlplane runs the one that takes finalizers away. Blocks of docs/cli.md are
examples of the commands' own help.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from agent.cli.main import lighter

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "docs" / "cli.md"
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").rglob("*.md")} - {REFERENCE})
_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PLACES = {"run", "cluster", "machine"}


@dataclass(frozen=True)
class Block:
    page: Path
    info: str
    text: str

    @property
    def place(self) -> str:
        return self.info.removeprefix("sh").strip()

    def __str__(self) -> str:
        return f"{self.page.name}: {self.text.splitlines()[0]}"


def blocks(page: Path) -> list[Block]:
    return [Block(page, info, text) for info, text in _FENCE.findall(page.read_text(encoding="utf-8"))]


SHELL = [block for page in PAGES for block in blocks(page) if block.info.split(" ")[0] == "sh"]


def of(place: str) -> list[Block]:
    return [block for block in SHELL if block.place == place]


def test_every_block_says_where_it_is_run_and_no_block_of_commands_hides_without_a_language() -> None:
    assert len(SHELL) > 30
    assert [str(block) for block in SHELL if block.place not in _PLACES] == []
    bare = [block for page in PAGES for block in blocks(page) if not block.info]
    words = ("kubectl ", "lighter ", "make ", "helm ", "velero ", "grpcurl ", "hack/")
    assert [str(block) for block in bare if any(line.startswith(words) for line in block.text.splitlines())] == []


# ---- run ----


@pytest.fixture
def shell(tmp_path: Path):  # type: ignore[no-untyped-def]
    """`shell(text, {"/srv/app": folder})`: what a block prints when it is run in a home of its own."""
    home = tmp_path / "home"
    home.mkdir()

    def run(text: str, folders: dict[str, Path]) -> str:
        for name, folder in folders.items():
            text = re.sub(rf"{re.escape(name)}(?![\w.])", str(folder), text)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8"}
        done = subprocess.run(
            ["bash", "-eu"],
            input=text,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def application(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc" / "app.conf").write_text("port = 8080\n")
    (folder / "uploads").mkdir()
    (folder / "uploads" / "one.bin").write_bytes(bytes(range(256)) * 100)
    return folder


def tour() -> str:
    """The two minutes of the README, after the virtual environment has been made: it is the one of this test."""
    (block,) = (one for one in of("run") if one.page.name == "README.md")
    first, rest = block.text.split("\n", 1)
    assert first == "make venv && export PATH=$PWD/.venv/bin:$PATH"
    return rest


def test_the_two_minutes_of_the_readme_and_what_a_runbook_looks_with_are_run(  # type: ignore[no-untyped-def]
    shell, application: Path, tmp_path: Path
) -> None:
    folders = {"/backup/app": tmp_path / "backup", "/srv/app": application, "/tmp/app": tmp_path / "restored"}
    printed = shell(tour(), folders)
    assert "port = 8080" in printed
    assert "uploads" in printed
    restored = {path.relative_to(tmp_path / "restored") for path in (tmp_path / "restored").rglob("*")}
    assert restored == {path.relative_to(application) for path in application.rglob("*")}
    assert (tmp_path / "restored" / "uploads" / "one.bin").read_bytes() == bytes(range(256)) * 100

    (block,) = (one for one in of("run") if one.page.name == "LighterageRepositoryDamaged.md")
    text = re.sub(r"'s3://[^']*'", f"file://{tmp_path}/backup", block.text)
    assert text != block.text
    shell(text.replace(" FILE", " ~/.lighter-password"), {})


def test_every_block_that_is_to_be_run_is_run() -> None:
    assert {block.page.name for block in of("run")} == {"README.md", "LighterageRepositoryDamaged.md"}
    assert len(of("run")) == 2


# ---- as far as it goes without a cluster ----


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_shell_takes_it(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def command_lines(text: str) -> list[list[str]]:
    """Words of each command, without comments and without what comes after a pipe; lines that go on are one."""
    joined = re.sub(r"\\\n", " ", text)
    return [words for line in joined.splitlines() if (words := shlex.split(line.split(" | ")[0], comments=True))]


def lighter_lines(text: str) -> list[list[str]]:
    return [line[line.index("lighter") + 1 :] for line in command_lines(text) if "lighter" in line[:8]]


def parse(command: click.Command, words: list[str], parent: click.Context | None = None) -> None:
    """Raises `click.UsageError` when the command line is none."""
    with command.make_context(command.name or "lighter", list(words), parent=parent) as context:
        if isinstance(command, click.Group):
            rest = [*context._protected_args, *context.args]
            name, found, left = command.resolve_command(context, rest)
            assert found is not None, name
            parse(found, left, context)


_LIGHTER = [
    pytest.param(words, id=" ".join(words))
    for text in [
        *(block.text for block in SHELL),
        *(text for info, text in _FENCE.findall(REFERENCE.read_text()) if info == "sh"),
    ]
    for words in lighter_lines(text)
]


@pytest.mark.parametrize("words", _LIGHTER)
def test_lighter_takes_the_command_line(words: list[str]) -> None:
    parse(lighter, words)


def test_what_blocks_name_of_this_repository_is_there() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named, folders = set(), set()
    for block in SHELL:
        for words in command_lines(block.text):
            if words[0] == "make":
                named.add(words[1])
            folders |= {word for word in words if re.fullmatch(r"(deploy|hack)/\S*", word)}
    assert named <= targets
    assert {"demo", "test", "cluster"} <= named
    assert [folder for folder in folders if not (ROOT / folder).exists()] == []
    assert {"deploy/daemonset", "deploy/helm/lighterage"} <= folders
