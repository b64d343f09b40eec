"""Meeting the parent's entries in step with the walk gives what looking each of them up would give."""

import stat

from hypothesis import given
from hypothesis import strategies as st

from agent import _native
from agent.repository.ids import ObjectId
from agent.snapshots.compare import ParentDirectory
from agent.snapshots.directory import encode_directory
from agent.snapshots.model import DIRECTORY, FILE, DirectorySummary, Entry
from agent.volumes.attributes import Attributes

names = st.binary(min_size=1, max_size=3).filter(lambda name: not {47, 0} & set(name))
entries = st.dictionaries(names, st.tuples(st.booleans(), st.integers(0, 2)), max_size=12)


def in_order(items):
    """Kopia's order: directories first, then the rest, each by raw name."""
    return sorted(items.items(), key=lambda item: (not item[1][0], item[0]))


def encode(items, extra=b""):
    raws = []
    for name, (is_directory, size) in in_order(items):
        kind = b"d" if is_directory else b"f"
        prefix = _native.entry_prefix(name, kind, 0o644, 0 if is_directory else size, 5, 0, 0)
        raws.append(prefix + b"ab%d" % size + b'"' + extra + b"}")
    head, tail = b'{"stream":"kopia:directory","entries":[', b'],"summary":null}\n'
    return head + b",".join(raws) + tail


def parent(data, piece, warnings):
    return ParentDirectory(
        ObjectId("k00"), lambda _: (data[at : at + piece] for at in range(0, len(data), piece)), warnings.append
    )


@given(entries, entries, st.integers(1, 200), st.sampled_from([b"", b',"x":1']))
def test_every_unchanged_entry_is_found(before, now, piece, extra):
    warnings = []
    old = parent(encode(before, extra), piece, warnings)
    for name, (is_directory, _) in in_order(now):
        if is_directory:
            was = before.get(name)
            utf8 = name.decode("utf-8", "replace").encode() == name
            expected = f"ab{was[1]}" if was and was[0] and utf8 else None
            assert old.directory(name) == expected
    files = [(name, size) for name, (is_directory, size) in in_order(now) if not is_directory]
    attributes = [Attributes(stat.S_IFREG | 0o644, size, 5, 0, 0) for _, size in files]
    listed = [name for name, _ in files]
    prefixes = _native.entry_prefixes(listed, attributes)
    found = [None] * len(files)
    old.match(listed, prefixes, attributes, found)
    for name, prefix, raw in zip(listed, prefixes, found, strict=True):
        utf8 = name.decode("utf-8", "replace").encode() == name
        if utf8 and before.get(name) == (False, now[name][1]):
            assert raw == prefix + b"ab%d" % now[name][1] + b'"}'
        else:
            assert raw is None
    assert warnings == []


@given(st.binary(max_size=200), st.integers(1, 50))
def test_a_damaged_parent_is_a_warning_and_nothing_else(data, piece):
    warnings = []
    old = parent(b'{"stream":"kopia:directory","entries":[' + data, piece, warnings)
    attributes = [Attributes(stat.S_IFREG | 0o644, 1, 5, 0, 0)]
    found = [None]
    old.directory(b"a")
    old.match([b"b"], _native.entry_prefixes([b"b"], attributes), attributes, found)
    old.match([b"c"], _native.entry_prefixes([b"c"], attributes), attributes, found)
    assert found == [None]
    assert len(warnings) <= 1


def test_an_entry_in_other_words_is_compared_by_meaning():
    raw = b'{"size":1,"name":"a","mtime":"1970-01-01T00:00:00.000000005Z","type":"f","mode":"0o644","obj":"ab"}'
    data = b'{"stream":"kopia:directory","entries":[' + raw + b"]}"
    attributes = [Attributes(stat.S_IFREG | 0o644, 1, 5, 0, 0)]
    prefixes = _native.entry_prefixes([b"a"], attributes)
    for now, expected in ((attributes, prefixes[0] + b'ab"}'), ([Attributes(stat.S_IFREG | 0o600, 1, 5, 0, 0)], None)):
        found = [None]
        parent(data, 10, []).match([b"a"], _native.entry_prefixes([b"a"], now), now, found)
        assert found == [expected]


def test_the_first_parent_that_knows_a_file_wins():
    attributes = [Attributes(stat.S_IFREG | 0o644, 1, 5, 0, 0)]
    prefixes = _native.entry_prefixes([b"a"], attributes)
    found = [None]
    for obj in ("aa", "bb"):
        entry = Entry(name="a", type=FILE, mode=0o644, size=1, mtime_ns=5, obj=ObjectId(obj))
        folder = Entry(name="d", type=DIRECTORY, obj=ObjectId("kdd"))
        data = encode_directory([folder, entry], DirectorySummary())
        parent(data, 1000, []).match([b"a"], prefixes, attributes, found)
    assert found == [prefixes[0] + b'aa"}']
