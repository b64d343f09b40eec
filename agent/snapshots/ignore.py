"""Which entries of a tree a backup leaves out, by kopia's rules (§14.11).

Upload makes one `DirectoryFilter` per directory, from its parent's, and asks it about each batch of entries. Rules come
from the policies on the way (`policy.PolicyTree`) and from dot-ignore files; where a directory adds none, its filter
shares everything with its parent's, and where no rule is in force names are not even looked at.

Two departures from kopia, both towards backing up more: a directory is never too large for `maxFileSize` (kopia
compares the size of the directory's own blocks), and a dot-ignore link that leads out of the tree is not followed
unless asked for.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable
from enum import Enum

import msgspec

from agent.base.errors import InvalidPolicy, SourceUnreadable
from agent.snapshots.policy import FilesPolicy, PolicyTree
from agent.snapshots.wildcard import Pattern, PatternError, compile_pattern, go_text
from agent.volumes.attributes import Attributes
from agent.volumes.tree_read import DirectoryReader, FileContent, Unreadable

CACHE_TAG = b"CACHEDIR.TAG"
CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
MAX_RULES_FILE = 4 << 20
"""Bytes of a dot-ignore file; a larger one is an error of its directory."""

_MAX_LINE = 65_536


class Exclusion(Enum):
    """Why an entry is left out."""

    RULE = "rule"
    """A pattern, or the tag of a cache directory. Kopia's statistics count these only."""
    LIMIT = "limit"
    """Its size, or the file system it is on."""


class _Context(msgspec.Struct, frozen=True):
    """Rules of one directory on top of its parent's."""

    parent: _Context | None
    dot_files: tuple[str, ...]
    patterns: tuple[Pattern, ...]
    max_file_size: int
    one_file_system: bool
    ignores_file: Callable[[str], bool] | None
    ignores_directory: Callable[[str], bool] | None

    @property
    def has_rules(self) -> bool:
        """Whether any pattern is in force here."""
        return self.ignores_file is not None


class DirectoryFilter:
    """The rules in force in one directory."""

    __slots__ = ("_context", "_follow_outside", "_path", "is_cache", "tree")

    def __init__(self, tree: PolicyTree, path: str, context: _Context, *, is_cache: bool, follow_outside: bool) -> None:
        self.tree = tree
        """The policies in force here: `tree.effective`."""
        self.is_cache = is_cache
        """Whether this is a tagged cache directory, which is stored empty."""
        self._path = path
        self._context = context
        self._follow_outside = follow_outside

    def excludes(self, name: bytes, attributes: Attributes, directory: Attributes) -> Exclusion | None:
        """Why an entry is left out, None when it is not; `directory` is the one it is in."""
        context = self._context
        if self.is_cache:
            return Exclusion.RULE
        is_directory = attributes.is_directory
        ignores = context.ignores_directory if is_directory else context.ignores_file
        if ignores is not None and ignores(f"{self._path}/{go_text(name)}"):
            return Exclusion.RULE
        if 0 < context.max_file_size < attributes.size and not is_directory:
            return Exclusion.LIMIT
        return Exclusion.LIMIT if context.one_file_system and attributes.dev != directory.dev else None

    @property
    def keeps_everything(self) -> bool:
        """Whether no entry can be excluded here, so that nobody has to ask."""
        context = self._context
        return not (self.is_cache or context.has_rules or context.max_file_size or context.one_file_system)

    def enter(self, name: bytes, reader: DirectoryReader) -> DirectoryFilter:
        """The filter of a directory below this one.

        Raises `SourceUnreadable` when a dot-ignore file in it cannot be used, `InvalidPolicy` for a bad rule of a
        policy.
        """
        text = go_text(name)
        return _filter(self.tree.child(text), f"{self._path}/{text}", self._context, reader, self._follow_outside)


def root_filter(tree: PolicyTree, reader: DirectoryReader, *, follow_outside: bool = False) -> DirectoryFilter:
    """The filter of the root of a backup. Raises as `DirectoryFilter.enter`."""
    return _filter(tree, "", _Context(None, (), (), 0, False, None, None), reader, follow_outside)


def _filter(
    tree: PolicyTree, path: str, parent: _Context, reader: DirectoryReader, follow_outside: bool
) -> DirectoryFilter:
    ignore_caches = tree.effective.files.ignore_cache_dirs
    is_cache = ignore_caches is not False and _has_cache_tag(reader)
    context = parent if is_cache else _context(tree, path, parent, reader, follow_outside)
    return DirectoryFilter(tree, path, context, is_cache=is_cache, follow_outside=follow_outside)


def _has_cache_tag(reader: DirectoryReader) -> bool:
    (tag,) = reader.read_files([CACHE_TAG], 4096, total=4096)
    if isinstance(tag, FileContent) and tag.data is None:
        file = reader.open_file(CACHE_TAG)
        if isinstance(file, Unreadable):
            return False
        with file:
            start = bytearray(len(CACHE_SIGNATURE))
            return file.readinto(start) == len(start) and start == CACHE_SIGNATURE
    return isinstance(tag, FileContent) and tag.data is not None and tag.data.startswith(CACHE_SIGNATURE)


def _context(tree: PolicyTree, path: str, parent: _Context, reader: DirectoryReader, follow_outside: bool) -> _Context:
    defined: FilesPolicy | None = tree.defined.files if tree.defined is not None else None
    dot_files = parent.dot_files if defined is None else defined.ignore_dot_files
    files = [(name, data) for name in dot_files if (data := _read_rules(name, reader, follow_outside)) is not None]
    if not files and defined is None:
        return parent
    patterns: list[Pattern] = []
    max_file_size, one_file_system = parent.max_file_size, parent.one_file_system
    if defined is not None:
        if defined.no_parent_dot_files:
            dot_files = ()
        dot_files = tuple(dict.fromkeys([*dot_files, *defined.ignore_dot_files]))
        max_file_size = defined.max_file_size or max_file_size
        one_file_system = defined.one_file_system or False
        for rule in defined.ignore:
            try:
                patterns.append(compile_pattern(rule, path))
            except PatternError as error:
                raise InvalidPolicy(f"an ignore rule of the policy for {path or '/'!r} is wrong: {error}") from error
    for name, data in files:
        patterns += _parse_rules(data, path, f"{os.fsdecode(reader.path)}/{name}")
    if not patterns:
        return _Context(
            parent, dot_files, (), max_file_size, one_file_system, parent.ignores_file, parent.ignores_directory
        )
    return _Context(
        parent,
        dot_files,
        tuple(patterns),
        max_file_size,
        one_file_system,
        _compile(patterns, parent.ignores_file, is_directory=False),
        _compile(patterns, parent.ignores_directory, is_directory=True),
    )


def _compile(
    patterns: Iterable[Pattern], above: Callable[[str], bool] | None, *, is_directory: bool
) -> Callable[[str], bool]:
    """One function for all rules of a directory: one regular expression when no rule takes another back."""
    relevant = [p for p in patterns if is_directory or not p.directories_only]
    expressions = [p.expression for p in relevant if p.expression is not None and not p.negated]
    if len(expressions) == len(relevant):
        search = re.compile("|".join(f"(?:{e})" for e in expressions) or "(?!)", re.DOTALL).fullmatch
        if above is None:
            return lambda path: search(path) is not None
        return lambda path: above(path) or search(path) is not None

    def ignores(path: str) -> bool:
        ignored = above is not None and above(path)
        for pattern in relevant:
            if ignored == pattern.negated:
                ignored = pattern.matches(path, is_directory=is_directory)
        return ignored

    return ignores


def _parse_rules(data: bytes, path: str, file: str) -> list[Pattern]:
    patterns: list[Pattern] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if len(line) >= _MAX_LINE:
            break  # kopia reads no further either
        text = go_text(line.removesuffix(b"\r"))
        if text.startswith("#") or not text.strip():
            continue
        try:
            patterns.append(compile_pattern(text, path))
        except PatternError as error:
            raise SourceUnreadable(
                f"line {number} of {file!r} is no ignore rule", hint="correct or remove the line"
            ) from error
    return patterns


def _read_rules(name: str, reader: DirectoryReader, follow_outside: bool) -> bytes | None:
    raw = os.fsencode(name)
    found = reader.look_up(raw)
    if isinstance(found, Unreadable):
        return None
    if found.attributes.is_symlink:
        return _read_linked_rules(raw, reader, follow_outside)
    if not found.attributes.is_file:
        return None
    (file,) = reader.read_files([raw], MAX_RULES_FILE, total=MAX_RULES_FILE)
    if isinstance(file, Unreadable):
        raise _unusable(raw, reader, file.reason)
    if file.data is None:
        raise _unusable(raw, reader, "it is too large")
    return file.data


def _read_linked_rules(name: bytes, reader: DirectoryReader, follow_outside: bool) -> bytes | None:
    try:
        fd = reader.open_linked(name)
    except OSError as error:
        raise _unusable(name, reader, os.strerror(error.errno or errno.EIO)) from error
    try:
        if not follow_outside and not reader.is_inside(fd):
            return None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _unusable(name, reader, "it leads to something that is no file")
        data = b""
        while len(data) <= MAX_RULES_FILE and (part := os.read(fd, 1 << 16)):
            data += part
    except OSError as error:
        raise _unusable(name, reader, os.strerror(error.errno or errno.EIO)) from error
    finally:
        os.close(fd)
    if len(data) > MAX_RULES_FILE:
        raise _unusable(name, reader, "it is too large")
    return data


def _unusable(name: bytes, reader: DirectoryReader, why: str) -> SourceUnreadable:
    path = os.fsdecode(os.path.join(reader.path, name))
    return SourceUnreadable(f"cannot use the ignore rules in {path!r}: {why}", hint="correct or remove the file")
