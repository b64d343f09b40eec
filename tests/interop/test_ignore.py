"""Which files a backup leaves out: kopia's answer and ours, over a tree that meets many patterns."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.snapshots.ignore import DirectoryFilter, root_filter
from agent.snapshots.model import Source
from agent.snapshots.policy import PolicyTree, policy_labels, policy_tree
from agent.testing.kopia_client import KopiaClient
from agent.volumes.tree_read import DirectoryReader, TreeEntry, open_directory

pytestmark = pytest.mark.kopia

_DIRECTORIES = ["", "a", "a/b", "a/b/c", "b", "x.txt", "foo", "foo/bar", "foo/a", "Foo", "é", "a b"]
_FILES = [
    "a",
    "b",
    "ab",
    "a.txt",
    "b.txt",
    "x",
    "foo",
    "bar",
    "a1",
    "A",
    ".hidden",
    "a b.txt",
    "é.txt",
    "-",
    "[a]",
    "q",
]
_FILES += ["#c", "!n", "a*b", "back\\slash", "ax", "tail "]

_PATTERNS = [
    "",
    "a",
    "/a",
    "a/",
    "a/b",
    "/a/b/",
    "*.txt",
    "!a.txt",
    "**",
    "**/a",
    "a/**",
    "a/**/c",
    "**/b/**",
    "**/c/a",
    "*/b",
    "*/*/c",
    "a*",
    "*a",
    "a*b",
    "a*x",
    "*o*",
    "f*/b*",
    "**/f*o/a",
    "**foo",
    "foo**",
    "foo/**bar",
    "a**/b",
    "?",
    "??",
    "?.txt",
    "[ab]",
    "[!ab]",
    "[a-c].txt",
    "[!a-z]*",
    "[[:alpha:]]",
    "[[:digit:]]",
    "a[[:digit:]]",
    "[[:upper:]]",
    "[[:punct:]]*",
    "[\\]a]",
    "\\#c",
    "#c",
    "\\!n",
    "!n",
    "\\*",
    "a\\*b",
    "back\\\\slash",
    "é",
    "é.*",
    "?.*",
    " a",
    "a b",
    "a b.txt",
    "tail\\ ",
    "/",
    "//",
    "/*",
    "/*/",
    "*/",
    "**/",
    "!**",
    "foo/",
    "foo/bar",
    "foo/*",
    "!foo/bar",
    "/foo/a/*",
    ".*",
    "[-]",
    "[]]",
    "[a",
    "x.txt",
    "x.txt/",
    "*.t?t",
    "a/b/c/*",
    "**/*b*",
    "**/a*/**/a",
    "A",
    "[z-a]",
    "[!z-a]",
    "***",
    "a/***/c",
    "./a",
    "a/./b",
    "",
]


def _make_tree(top: Path, rng: random.Random) -> None:
    for folder in _DIRECTORIES:
        (top / folder).mkdir(parents=True, exist_ok=True)
    for folder in _DIRECTORIES:
        for name in rng.sample(_FILES, 9):
            path = top / folder / name
            if not path.exists():
                path.write_bytes(b"x" * rng.choice([0, 1, 50]))


def _ours(tree: PolicyTree, top: Path) -> set[str]:
    found: set[str] = set()

    def walk(reader: DirectoryReader, rules: DirectoryFilter, path: str) -> None:
        for batch in reader.batches():
            for entry in batch:
                assert isinstance(entry, TreeEntry)
                if rules.excludes(entry.name, entry.attributes, reader.attributes):
                    continue
                below = path + entry.name.decode(errors="replace")
                found.add(below + "/" if entry.attributes.is_directory else below)
                if entry.attributes.is_directory:
                    child = reader.open_directory(entry.name)
                    assert isinstance(child, DirectoryReader)
                    with child:
                        walk(child, rules.enter(entry.name, child), below + "/")

    with open_directory(top.as_posix()) as root:
        walk(root, root_filter(tree, root, follow_outside=True), "")
    return found


def _usable(patterns: list[str]) -> list[str]:
    return [p for p in patterns if (p and not p.startswith("[a")) or p in ("[ab]", "[a-c].txt")]


def test_the_same_files_are_left_out_as_by_kopia(kopia: Callable[..., KopiaClient], tmp_path: Path) -> None:
    rng = random.Random(20)
    patterns = _usable(_PATTERNS)
    client = kopia(tmp_path / "repo").create()
    top = tmp_path / "cases"
    number = 0

    def new_tree() -> Path:
        nonlocal number
        number += 1
        folder = top / f"{number:03}"
        _make_tree(folder, rng)
        return folder

    for pattern in patterns:
        folder = new_tree()
        (folder / ".kopiaignore").write_text(pattern + "\n")
        nested = folder / "a"
        (nested / ".kopiaignore").write_text("# nested\n\n" + rng.choice(patterns) + "\r\n")
    for _ in range(40):
        folder = new_tree()
        for place in rng.sample(_DIRECTORIES, 3):
            rules = [("!" if rng.random() < 0.3 else "") + rng.choice(patterns) for _ in range(3)]
            (folder / place / ".kopiaignore").write_text("\n".join(rules))
    cached = new_tree()
    (cached / "a" / "CACHEDIR.TAG").write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55\nmore")
    (cached / "b" / "CACHEDIR.TAG").write_bytes(b"Signature: wrong")
    linked = new_tree()
    (linked / "rules").write_text("*.txt\n")
    os.symlink("../rules", linked / "a" / ".kopiaignore")
    bad_name = new_tree()
    os.close(os.open(os.fsencode(bad_name) + b"/bad\xff.txt", os.O_CREAT))
    os.close(os.open(os.fsencode(bad_name) + b"/b\xffx", os.O_CREAT))
    (bad_name / ".kopiaignore").write_bytes(b"bad?.txt\nb\xffx\n")

    # One snapshot of all trees: each is a case of its own because its rules are anchored in it.
    theirs = _theirs(client, top)
    ours = _ours(policy_tree([], Source("default", "default", top.as_posix())), top)
    _compare(top, ours, theirs)


def test_policies_on_the_way_and_below_leave_out_the_same_files_as_by_kopia(
    kopia: Callable[..., KopiaClient], tmp_path: Path
) -> None:
    rng = random.Random(7)
    client = kopia(tmp_path / "repo").create()
    patterns = [p for p in _usable(_PATTERNS) if not p.startswith(("-", "[-"))]
    top = tmp_path / "cases"
    for number in range(12):
        folder = top / f"{number:03}"
        _make_tree(folder, rng)
        for place in rng.sample(_DIRECTORIES, 3):
            (folder / place / ".kopiaignore").write_text("\n".join(rng.sample(patterns, 2)))
            (folder / place / ".more").write_text("\n".join(rng.sample(patterns, 2)))
    policies: list[tuple[str, dict[str, object]]] = [
        (top.as_posix(), {"ignore": ["q", "/003/a/b", "!x"], "maxFileSize": 40_000, "oneFileSystem": True}),
        (tmp_path.as_posix(), {"ignore": ["never-used"], "ignoreDotFiles": [".kopiaignore", ".more"]}),
        ((top / "001").as_posix(), {"ignore": ["*.txt", "/a"], "ignoreDotFiles": [".more"]}),
        ((top / "002" / "a").as_posix(), {"noParentIgnore": True, "ignore": ["/b", "[[:alpha:]]"]}),
        ((top / "004").as_posix(), {"noParentDotFiles": True}),
        ((top / "005" / "foo").as_posix(), {"maxFileSize": 1 << 20, "ignore": ["!**"]}),
    ]
    manifests: list[tuple[dict[str, str], bytes]] = []
    document: dict[str, object] = {}
    for path, files in policies:
        document[f"default@default:{path}"] = {"files": files}
        manifests.append((policy_labels(Source("default", "default", path)), json.dumps({"files": files}).encode()))
    (tmp_path / "policies.json").write_text(json.dumps(document))
    client.run("policy", "import", f"--from-file={tmp_path / 'policies.json'}")
    theirs = _theirs(client, top)
    ours = _ours(policy_tree(manifests, Source("default", "default", top.as_posix())), top)
    _compare(top, ours, theirs)


def _theirs(client: KopiaClient, top: Path) -> set[str]:
    snapshot = client.json("snapshot", "create", top.as_posix())
    assert isinstance(snapshot, dict) and isinstance(snapshot["rootEntry"], dict)
    listed = client.run("ls", "-r", str(snapshot["rootEntry"]["obj"])).splitlines()
    return {line.partition("/")[2] for line in listed}


def _compare(top: Path, ours: set[str], theirs: set[str]) -> None:
    problems: list[str] = []
    for case in sorted({path.partition("/")[0] for path in ours ^ theirs}):
        rules = {
            path.relative_to(top / case).as_posix(): path.read_bytes()
            for path in sorted((top / case).rglob(".*"))
            if path.name in (".kopiaignore", ".more")
        }
        more = sorted(path for path in ours - theirs if path.startswith(case))
        less = sorted(path for path in theirs - ours if path.startswith(case))
        problems.append(f"{rules}: only we keep {more}, only kopia keeps {less}")
    assert not problems, "\n".join(problems)
