"""Hypothesis strategies for the trees of `trees.py`: names, metadata, contents around the borders of chunks, links."""

from __future__ import annotations

from hypothesis import strategies as st

from agent.testing.trees import (
    ODD_MODES,
    ODD_NAMES,
    ODD_OWNERS,
    ODD_SIZES,
    ODD_TIMES_NS,
    SECOND,
    File,
    Fill,
    Folder,
    Link,
    Metadata,
    Node,
    Special,
    Stretch,
    stored_name,
)

_MAX_NAME = 255
_TIMES = st.sampled_from(ODD_TIMES_NS) | st.integers(-(1 << 31) * SECOND + SECOND, (1 << 33) * SECOND)


def _usable(name: bytes) -> bool:
    """A name that a file system takes, also when it comes back with U+FFFD in it, and that kopia gives no meaning."""
    return (
        name not in (b".", b"..", b".kopiaignore", b"CACHEDIR.TAG")
        and not name.endswith(b".kopia-entry")
        and len(stored_name(name).encode()) <= _MAX_NAME
    )


def names() -> st.SearchStrategy[bytes]:
    """Names of one path component, many of them hostile, some no UTF-8."""
    characters = st.characters(codec="utf-8", exclude_characters="/\0")
    letters = st.text(characters, min_size=1, max_size=12).map(str.encode)
    raw = st.lists(st.integers(1, 255).filter(lambda b: b != ord("/")), min_size=1, max_size=10).map(bytes)
    long = st.text(characters, min_size=40, max_size=80).map(str.encode)
    return (st.sampled_from(ODD_NAMES) | letters | raw | long).filter(_usable)


def metadata(modes: st.SearchStrategy[int] | None = None) -> st.SearchStrategy[Metadata]:
    """All modes, times within what every file system takes, owners up to 32 bits."""
    owner = st.sampled_from(ODD_OWNERS) | st.tuples(st.integers(0, (1 << 32) - 2), st.integers(0, (1 << 32) - 2))
    chosen = modes or st.sampled_from(ODD_MODES) | st.integers(0, 0o7777)
    return st.builds(lambda mode, time, ids: Metadata(mode, time, *ids), chosen, _TIMES, owner)


def files(chunk: int = 128 << 10) -> st.SearchStrategy[File]:
    """Files with sizes at and around the borders that a splitter of average size `chunk` has; most are small."""
    border = st.sampled_from([chunk // 2, chunk, 2 * chunk, 4 * chunk])
    near = st.builds(lambda b, delta: b + delta, border, st.integers(-2, 2))
    length = st.one_of(st.sampled_from(ODD_SIZES[:6]), st.integers(0, 3000), near)
    # A few seeds, so that files share contents.
    stretch = st.builds(Stretch, st.sampled_from(Fill), length, st.integers(0, 5) | st.integers(6, 1 << 40))
    return st.builds(File, st.lists(stretch, max_size=3).map(tuple), metadata())


def links() -> st.SearchStrategy[Link]:
    """Links to anything at all."""
    target = st.sampled_from([b"..", b"/", b".", b"a/b", b"\xff\xfe"]) | st.binary(min_size=1, max_size=200).map(
        lambda raw: raw.replace(b"\0", b"0")
    )
    return st.builds(Link, target, metadata())


def folders(max_leaves: int = 25, chunk: int = 128 << 10) -> st.SearchStrategy[Folder]:
    """Whole trees. Names within a folder stay different when they are stored."""
    leaves: st.SearchStrategy[Node] = files(chunk) | links() | st.builds(Special, st.booleans())

    def folder(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Folder]:
        entries = st.lists(st.tuples(names(), children), max_size=8, unique_by=lambda item: stored_name(item[0])).map(
            dict
        )
        return st.builds(Folder, entries, metadata())

    return folder(st.recursive(leaves, folder, max_leaves=max_leaves))
