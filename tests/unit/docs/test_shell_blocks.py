"""Each block of shell in the README and the guides says where it is run, and is held to that.

The word after `sh` says it: `run` blocks are run here, line by line as they stand but for the folders that they name;
`cluster` blocks talk to a cluster, where tests/e2e/test_guides.py runs them, and `machine` blocks take the whole
machine: `make demo` is run here on little data, other targets do what some tier does (`TRIES`), and what no test runs
has its reason (`TRIED_BY_HAND`). Of all is tried that a shell takes them, that `lighter` takes their command lines,
that what they name of this repository is there.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from agent.cli.main import lighter
from tests.shell_blocks import (
    FENCE,
    FIND_NOTHING,
    ON_THE_CLUSTER,
    PAGES,
    PLACES,
    REFERENCE,
    ROOT,
    SHELL,
    TRIED_BY_HAND,
    TRIES,
    Block,
    blocks,
    of,
    other_way,
    script,
)

VENV = ".venv"
"""Of the Makefile."""


def test_every_block_says_where_it_is_run_and_no_block_of_commands_hides_without_a_language() -> None:
    assert len(SHELL) > 30
    assert [str(block) for block in SHELL if block.place not in PLACES] == []
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


# ---- for a cluster ----


def cluster_blocks() -> dict[str, list[str]]:
    """Texts by page."""
    found: dict[str, list[str]] = {}
    for block in of("cluster"):
        found.setdefault(str(block.page.relative_to(ROOT)), []).append(block.text)
    return found


def test_every_page_with_blocks_for_a_cluster_is_run_on_one() -> None:
    assert cluster_blocks().keys() == ON_THE_CLUSTER.keys()
    guides = (ROOT / "tests" / "e2e" / "test_guides.py").read_text()
    runbooks = {page for page in ON_THE_CLUSTER if page.startswith("docs/runbooks/")}
    assert [page for page in ON_THE_CLUSTER.keys() - runbooks if f'"{page}"' not in guides] == []


@pytest.mark.parametrize("page", ON_THE_CLUSTER)
def test_what_a_reader_has_to_fill_in_is_filled_in_for_the_tests(page: str) -> None:
    text = "".join(cluster_blocks()[page])
    assert [word for word in ON_THE_CLUSTER[page] if word not in text] == []
    filled = "".join(script(page, block) for block in cluster_blocks()[page])
    # Names of columns and of variables are in capitals, too.
    left = re.findall(r"(?<![\w$-])(?!OTEL_)[A-Z][A-Z_]+\b(?!:\.)", re.sub(r'"image[^"]*"|\$[A-Z_]+', "", filled))
    assert left == []


def test_only_runbooks_for_what_does_not_happen_in_tests_may_find_nothing() -> None:
    assert len(FIND_NOTHING) == 2
    assert all(reason for reason in FIND_NOTHING.values())
    assert FIND_NOTHING.keys() <= ON_THE_CLUSTER.keys()


def test_what_is_searched_in_an_agents_log_is_what_agents_log() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "agent").rglob("*.py"))
    logged = "".join(re.findall(r"_log\.\w+\(\s*\"[^\"]*\"", source))
    searched = [
        phrase
        for texts in cluster_blocks().values()
        for line in "".join(texts).splitlines()
        for phrase in re.findall(r"logs .*grep '([^']*)'", line)
    ]
    assert len(searched) >= 2
    assert [phrase for phrase in searched if phrase not in logged] == []


def test_the_other_way_is_what_a_block_names_beside_a_command() -> None:
    assert other_way("first      # or: other\nthen    # why\n") == "other\nthen    # why\n"


# ---- for a machine of one's own ----


def machine_commands() -> set[str]:
    """Program and what it is to do, of each line."""
    return {" ".join(words[:2]) for block in of("machine") for words in command_lines(block.text)}


def made(target: str) -> list[str]:
    """The commands of a target as make would run them here, but for making the virtual environment."""
    done = subprocess.run(
        ["make", "--dry-run", f"--assume-old={VENV}/.installed", target],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line.strip() for line in done.stdout.splitlines()]


def plain(line: str) -> str:
    """Without what differs from run to run: variables of a command, what becomes of its status, and a trap's quotes."""
    line = re.sub(r"\|\| status=\$\?$", "", line.strip()).strip()
    if trap := re.fullmatch(r".*\btrap '([^']*)' EXIT", line):
        line = trap[1]
    return re.sub(r"^([A-Z]+=(\$\{[^}]*\}|\"[^\"]*\"|\S*) )+", "", line)


def test_every_command_for_a_machine_is_run_by_a_tier_or_has_its_reason() -> None:
    assert machine_commands() == {"make demo"} | TRIES.keys() | TRIED_BY_HAND.keys()
    assert not TRIES.keys() & TRIED_BY_HAND.keys()
    assert len(TRIED_BY_HAND) == 2
    assert all(TRIED_BY_HAND.values())


@pytest.mark.parametrize("command", TRIES)
def test_a_tier_runs_what_the_command_runs(command: str) -> None:
    tier = TRIES[command]
    if tier.startswith("make "):
        lines = made(tier.removeprefix("make "))
    else:
        script_name, _, everything = tier.partition(" ")
        text = (ROOT / script_name).read_text()
        always = re.sub(r"^if .* = all \]; then\n.*?^else$", "", text, flags=re.MULTILINE | re.DOTALL)
        assert everything or text.count(" all ]") == (text != always)
        lines = [plain(line.removeprefix("exec ")) for line in (text if everything else always).splitlines()]
    wanted = [plain(line) for line in made(command.removeprefix("make "))]
    assert wanted
    assert command in lines or [line for line in wanted if line not in lines] == []


def test_the_tests_that_the_readme_promises_are_all_of_the_folders_and_the_linters() -> None:
    lines = made("test")
    folders = {found for line in lines for found in re.findall(r"pytest tests/(\w+)", line)}
    e2e = re.findall(r"pytest tests/(\w+)", (ROOT / "hack" / "e2e").read_text())
    there = {path.parent.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("test_*.py")}
    assert "hack/e2e" in lines
    assert folders | set(e2e) == there
    assert {f"{VENV}/bin/mypy", f"{VENV}/bin/lint-imports", f"{VENV}/bin/ruff check ."} <= set(lines)


def test_the_demonstration_of_the_readme_is_run_on_a_small_volume(application: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", f"--assume-old={sys.prefix}/.installed", "demo", f"VENV={sys.prefix}", f"VOLUME={application}"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.endswith("All is well; removing what the demo made.\n")
    assert "content, type, mode, owner, time all equal" in done.stdout
    assert not list(tmp_path.glob("lighterage-demo-*"))


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
        *(text for info, text in FENCE.findall(REFERENCE.read_text()) if info == "sh"),
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
