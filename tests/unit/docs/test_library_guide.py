"""Every example of the library guide runs as it stands."""

import ast
import re
from pathlib import Path

import pytest

_GUIDE = Path(__file__).parents[3] / "docs" / "library.md"


def _examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", _GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


async def test_the_examples_run_one_after_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = tmp_path / "volume"
    (volume / "docs").mkdir(parents=True)
    (volume / "docs" / "readme.txt").write_bytes(b"read me first")
    (volume / "data.bin").write_bytes(b"\0" * 100_000 + b"tail")
    names: dict[str, object] = {"WORK": tmp_path, "VOLUME": volume}
    examples = _examples()
    assert len(examples) >= 4

    for example in examples:
        code = compile(example, str(_GUIDE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)  # noqa: S307 - our own documentation
        if running is not None:
            await running

    printed = capsys.readouterr().out
    assert "2 files" in printed
    assert "b'read me first'" in printed
    assert (tmp_path / "restored" / "data.bin").read_bytes() == (volume / "data.bin").read_bytes()
