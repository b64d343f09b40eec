"""Listing, finding, reading and comparing snapshots."""

import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import ContentNotFound, LighterageError, PathNotInSnapshot, UsageError
from agent.repository.ids import parse_content_id
from agent.snapshots.browse import Wanted, cat, find_entries, glob_to_regex, list_entries
from agent.snapshots.diff import Kind, diff
from agent.snapshots.model import Entry
from agent.snapshots.tree import find_entry, stored_path
from tests.unit.snapshots.memory_repository import MemoryRepository


@pytest.fixture
def repository() -> MemoryRepository:
    return MemoryRepository()


def sample(repository: MemoryRepository) -> Entry:
    inner = repository.directory("inner", [repository.file("deep.txt", b"deep")])
    sub = repository.directory("sub", [inner, repository.file("a.log", b"log"), repository.link("l", b"a.log")])
    return repository.directory("root", [sub, repository.file("big.bin", b"x" * 5000, chunk=1000)])


async def paths(entries: object) -> list[str]:
    return [found.path async for found in entries]  # type: ignore[attr-defined]


async def test_a_recursive_listing_names_each_directory_before_what_is_in_it(repository: MemoryRepository) -> None:
    root = sample(repository)
    assert await paths(list_entries(repository, root)) == ["sub", "big.bin"]
    assert await paths(list_entries(repository, root, recursive=True)) == [
        "sub",
        "sub/inner",
        "sub/inner/deep.txt",
        "sub/a.log",
        "sub/l",
        "big.bin",
    ]


async def test_an_unreadable_directory_is_named_and_the_listing_goes_on(repository: MemoryRepository) -> None:
    root = sample(repository)
    sub = await find_entry(repository, root, ("sub",))
    del repository.data[parse_content_id(sub.obj)]
    errors: list[tuple[str, LighterageError]] = []
    listing = list_entries(repository, root, recursive=True, on_error=lambda path, error: errors.append((path, error)))
    assert await paths(listing) == ["sub", "big.bin"]
    assert [(path, type(error)) for path, error in errors] == [("sub", ContentNotFound)]
    with pytest.raises(ContentNotFound):
        await paths(list_entries(repository, root, recursive=True))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(pattern="*.txt"), ["sub/inner/deep.txt"]),
        (Wanted(pattern="sub/*"), ["sub/inner", "sub/a.log", "sub/l"]),
        (Wanted(pattern="sub/**", types="f"), ["sub/inner/deep.txt", "sub/a.log"]),
        (Wanted(pattern="**/deep.txt"), ["sub/inner/deep.txt"]),
        (Wanted(pattern="**/big.bin"), ["big.bin"]),
        (Wanted(types="ds"), ["sub", "sub/inner", "sub/l"]),
        (Wanted(min_size=4, max_size=4), ["sub/inner/deep.txt"]),
        (Wanted(changed_before_ns=6), ["sub/l"]),
        (Wanted(changed_since_ns=78), ["sub/inner/deep.txt", "sub/a.log", "big.bin"]),
    ],
)
async def test_find(repository: MemoryRepository, wanted: Wanted, expected: list[str]) -> None:
    assert await paths(find_entries(repository, sample(repository), wanted)) == expected


@given(st.text("ab*?[]!^-/\\.&|~ü\n", max_size=12))
def test_a_glob_is_compiled_or_refused_by_name(pattern: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            Wanted(pattern=pattern).matcher()
        except UsageError as error:
            assert "bad character range" in str(error)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("[a-c]x", "bx", "dx"),
        ("[!a-c]x", "dx", "ax"),
        ("[]]", "]", "["),
        ("a[", "a[", "a"),
        ("a.b", "a.b", "axb"),
        ("x?z", "xyz", "x/z"),
        ("a/**/b", "a/c/d/b", "a/cb"),
        ("a/**/b", "a/b", "ab"),
        ("*", ".hidden", "a/b"),
    ],
)
def test_globs(pattern: str, matching: str, other: str) -> None:
    glob = re.compile(glob_to_regex(pattern))
    assert glob.match(matching)
    assert not glob.match(other)


async def test_cat_hands_on_all_bytes_of_a_file_and_refuses_a_directory(repository: MemoryRepository) -> None:
    root = sample(repository)
    out = bytearray()
    big = await find_entry(repository, root, stored_path("/big.bin"))
    assert await cat(repository, big, out.extend) == 5000
    assert bytes(out) == b"x" * 5000
    with pytest.raises(PathNotInSnapshot):
        await cat(repository, root, out.extend)


@pytest.mark.parametrize("path", ["missing", "sub/missing", "big.bin/below"])
async def test_a_path_that_is_not_there_is_named(repository: MemoryRepository, path: str) -> None:
    with pytest.raises(PathNotInSnapshot, match=path):
        await find_entry(repository, sample(repository), stored_path(path))


def test_a_path_as_typed_becomes_a_path_as_stored() -> None:
    assert stored_path("//a/./b\udce9\udcff/") == ("a", "b\ufffd\ufffd")


async def changes(repository: MemoryRepository, before: Entry, after: Entry) -> list[tuple[Kind, str, bool, bool]]:
    return [(c.kind, c.path, c.content, c.metadata) async for c in diff(repository, before, after)]


async def test_equal_trees_are_not_even_read(repository: MemoryRepository) -> None:
    root = sample(repository)
    repository.data.clear()
    assert await changes(repository, root, root) == []


async def test_changes_are_told_by_kind_and_whether_content_or_metadata_changed(repository: MemoryRepository) -> None:
    new = repository.directory("new", [repository.file("n", b"n")])
    old_sub = repository.directory("sub", [repository.file("gone", b"g"), repository.file("same", b"s")])
    new_sub = repository.directory("sub", [new, repository.file("same", b"s")])
    before = repository.directory(
        "r", [old_sub, repository.file("data", b"1"), repository.file("mode", b"m"), repository.file("type", b"t")]
    )
    after = repository.directory(
        "r",
        [
            new_sub,
            repository.file("data", b"2"),
            repository.file("mode", b"m", mode=0o600),
            repository.link("type", b"t"),
        ],
        mtime_ns=78,
    )
    assert sorted(await changes(repository, before, after), key=lambda c: (c[1], c[0].value)) == [
        (Kind.MODIFIED, "", True, True),
        (Kind.MODIFIED, "data", True, False),
        (Kind.MODIFIED, "mode", False, True),
        (Kind.REMOVED, "sub/gone", True, True),
        (Kind.ADDED, "sub/new", True, True),
        (Kind.ADDED, "sub/new/n", True, True),
        (Kind.ADDED, "type", True, True),
        (Kind.REMOVED, "type", True, True),
    ]


names = st.dictionaries(st.text("abc\ufffd", min_size=1, max_size=2), st.tuples(st.booleans(), st.integers(0, 2)))


@given(names, names, st.randoms(use_true_random=False))
async def test_the_join_finds_the_same_changes_in_whatever_order_entries_are_stored(
    old: dict[str, tuple[bool, int]], new: dict[str, tuple[bool, int]], random: object
) -> None:
    repository = MemoryRepository()

    def tree(items: dict[str, tuple[bool, int]], *, shuffled: bool) -> Entry:
        entries = [
            repository.directory(name, [], mode=version) if is_directory else repository.file(name, b"%d" % version)
            for name, (is_directory, version) in items.items()
        ]
        entries.sort(key=lambda e: (e.type != "d", e.name))
        if shuffled:
            random.shuffle(entries)  # type: ignore[attr-defined]
        return repository.directory("r", entries)

    expected = {(Kind.REMOVED, n) for n in old if n not in new or old[n][0] != new[n][0]}
    expected |= {(Kind.ADDED, n) for n in new if n not in old or old[n][0] != new[n][0]}
    expected |= {(Kind.MODIFIED, n) for n in new if n in old and old[n][0] == new[n][0] and old[n] != new[n]}
    for shuffled in (False, True):
        found = await changes(repository, tree(old, shuffled=False), tree(new, shuffled=shuffled))
        assert {(kind, path) for kind, path, _, _ in found} == expected
