"""What a backup leaves out, where kopia cannot be asked: hostile rule files, limits, sharing."""

import os
from pathlib import Path

import pytest

from agent.base.errors import InvalidPolicy, SourceUnreadable
from agent.snapshots.ignore import MAX_RULES_FILE, root_filter
from agent.snapshots.model import Source
from agent.snapshots.policy import PolicyTree, policy_labels, policy_tree
from agent.volumes.attributes import Attributes
from agent.volumes.tree_read import open_directory

_SOURCE = Source("h", "u", "/data")


def _tree(files: str = "{}") -> PolicyTree:
    return policy_tree([(policy_labels(_SOURCE), f'{{"files":{files}}}'.encode())], _SOURCE)


def _file(size: int = 0, dev: int = 1) -> Attributes:
    return Attributes(0o100644, size, 0, 0, 0, dev)


_DIRECTORY = Attributes(0o040755, 5000, 0, 0, 0, 1)


def test_without_rules_nothing_has_to_be_asked(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with open_directory(tmp_path.as_posix()) as root:
        rules = root_filter(_tree(), root)
        child = root.open_directory(b"d")
        assert rules.keeps_everything
        assert rules.enter(b"d", child).keeps_everything  # type: ignore[arg-type]


def test_files_are_left_out_by_size_and_by_device_but_directories_never_by_size(tmp_path: Path) -> None:
    with open_directory(tmp_path.as_posix()) as root:
        rules = root_filter(_tree('{"maxFileSize":100,"oneFileSystem":true}'), root)
        assert not rules.keeps_everything
        assert not rules.excludes(b"f", _file(100), _DIRECTORY)
        assert rules.excludes(b"f", _file(101), _DIRECTORY)
        assert not rules.excludes(b"d", _DIRECTORY, _DIRECTORY)
        assert rules.excludes(b"f", _file(1, dev=2), _DIRECTORY)


def test_a_link_that_leads_out_of_the_tree_is_followed_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text("secret\n")
    (tmp_path / "tree").mkdir()
    os.symlink("../rules", tmp_path / "tree" / ".kopiaignore")
    with open_directory((tmp_path / "tree").as_posix()) as root:
        assert not root_filter(_tree(), root).excludes(b"secret", _file(), _DIRECTORY)
        assert root_filter(_tree(), root, follow_outside=True).excludes(b"secret", _file(), _DIRECTORY)


@pytest.mark.parametrize("kind", ["dangling", "directory", "pipe", "loop", "huge", "bad rule"])
def test_rules_that_cannot_be_used_are_an_error_of_their_directory(tmp_path: Path, kind: str) -> None:
    rules = tmp_path / ".kopiaignore"
    if kind == "huge":
        with open(rules, "wb") as out:
            out.truncate(MAX_RULES_FILE + 1)
    elif kind == "bad rule":
        rules.write_text("fine\nsecret[\n")
    else:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "directory").mkdir()
        os.symlink({"loop": ".kopiaignore"}.get(kind, kind), rules)
    with open_directory(tmp_path.as_posix()) as root, pytest.raises(SourceUnreadable) as raised:
        root_filter(_tree(), root)
    assert "secret" not in str(raised.value), "what stands in the file stays there"


def test_a_bad_rule_of_a_policy_is_an_invalid_policy(tmp_path: Path) -> None:
    with open_directory(tmp_path.as_posix()) as root, pytest.raises(InvalidPolicy):
        root_filter(_tree('{"ignore":["a["]}'), root)


def test_rules_end_at_an_endless_line(tmp_path: Path) -> None:
    (tmp_path / ".kopiaignore").write_bytes(b"a\n" + b"x" * 70_000 + b"\nb\n")
    with open_directory(tmp_path.as_posix()) as root:
        rules = root_filter(_tree(), root)
        assert rules.excludes(b"a", _file(), _DIRECTORY)
        assert not rules.excludes(b"b", _file(), _DIRECTORY)
