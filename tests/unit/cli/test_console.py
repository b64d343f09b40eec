"""What is printed: escaped names, tables, JSON of any text, errors, pipes that end early, progress."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.base.errors import CanceledError, SnapshotNotFound
from agent.cli import console
from agent.cli.connection import as_url
from agent.cli.options import parse_tags
from agent.cli.progress import Frame
from agent.cli.run import run
from tests.unit.cli.conftest import Lighter, Place


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain", "plain"),
        ("ünï☃", "ünï☃"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("tab\tnl\n", "tab\\tnl\\n"),
        (b"bad-\xff", "bad-\\xff"),
        ("bad-\udcff", "bad-\\xff"),
        ("right\u202eleft", "right\\u202eleft"),
    ],
)
def test_names_are_escaped(name: str | bytes, shown: str) -> None:
    assert console.printable(name) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 bytes"), (4.930966469, "5 bytes"), (1536, "1.5 KiB"), (3.2e9, "2.98 GiB")]
)
def test_bytes_and_rates_are_short(count: float, shown: str) -> None:
    assert console.size_text(count) == shown


def test_json_holds_only_valid_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"name": "bad-\udcff", "pair": "\U0001f600"})
    assert capsys.readouterr().out == '{"name":"bad-\ufffd","pair":"\U0001f600"}\n'


def test_a_table_aligns_wide_characters_and_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(("NAME", "N"), [("漢字", "1"), ("abcdef", "22")], right=(1,))
    assert capsys.readouterr().out.splitlines() == ["NAME     N", "漢字     1", "abcdef  22"]


def test_an_error_says_its_code_and_hint(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_error(SnapshotNotFound("no snapshot \x1b", hint="look"), as_json=False)
    assert capsys.readouterr().err == "lighter: [snapshot.not-found] no snapshot \\x1b\n  look\n"


def test_usage_errors_are_json_where_json_was_asked_for(lighter: Lighter) -> None:
    outcome = lighter("backup", "--nonsense", "--json")
    assert (outcome.status, outcome.error["code"]) == (2, "usage")
    assert "--nonsense" in outcome.error["message"]


def test_a_reader_that_leaves_ends_the_command_quietly(lighter: Lighter, place: Place) -> None:
    for n in range(500):
        (place.tree / f"file-{n:0200}").touch()
    assert lighter("backup", place.tree, *place.options).status == 0
    script = "from agent.cli.main import main; main()"
    command = [sys.executable, "-c", script, "ls", "latest", *place.options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == console.SIGPIPE_STATUS
    assert errors == b""


def test_the_first_signal_asks_and_the_second_cancels() -> None:
    asked = asyncio.Event()

    async def stubborn() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asked.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    def interrupt() -> bool:
        asked.set()
        return True

    with pytest.raises(CanceledError):
        run(stubborn(), interrupt=interrupt)


def test_a_signal_cancels_work_that_would_not_end_by_itself() -> None:
    async def opening() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    with pytest.raises(CanceledError):
        run(opening(), interrupt=lambda: False)


def test_a_signal_cancels_work_that_has_no_wish_of_its_own() -> None:
    async def forever() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    with pytest.raises(CanceledError):
        run(forever())


def test_a_progress_line_says_share_amount_and_rate() -> None:
    frame = Frame(bytes_done=1 << 20, files_done=5, bytes_total=4 << 20, files_total=20, errors=1)
    assert frame.line("Backing up", 2.0) == "Backing up: 25%, 5 files, 1 MiB of 4 MiB, 512 KiB/s, 1 error"
    assert Frame(0, 0).line("Restoring", 0.0) == "Restoring: 0 files, 0 bytes, 0 bytes/s"


def test_tags_are_stored_as_kopia_stores_them() -> None:
    assert parse_tags(("app:shop", "empty:")) == {"tag:app": "shop", "tag:empty": ""}


def test_a_plain_path_names_a_repository_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert as_url("some folder") == f"file://{tmp_path}/some%20folder"
    assert as_url("s3://bucket/prefix") == "s3://bucket/prefix"
