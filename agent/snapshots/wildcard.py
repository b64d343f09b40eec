"""Kopia's wildcard patterns: gitignore syntax with kopia's own corner cases (§14.11).

`ignore.py` compiles each rule here once. A pattern becomes tokens; tokens become a regular expression where both are
provably the same, and are matched by the backtracking that kopia does where they are not (several stars in one path
component, character classes). The backtracking is the definition: among its oddities, a star inside a
component may swallow one slash behind it.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Callable

import msgspec

_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
_END = "\0"
_REPLACED = dict.fromkeys(range(56448, 56576), "�")


class PatternError(ValueError):
    """A pattern cannot be understood."""


class _Kind(enum.Enum):
    CHARACTER = "c"
    SLASH = "/"
    ANY = "?"
    STAR = "*"
    DOUBLE_STAR = "**"
    SET = "[]"


class _Range(msgspec.Struct, frozen=True):
    first: str
    last: str

    def matches(self, character: str) -> bool:
        return self.first <= character <= self.last


class _Class(msgspec.Struct, frozen=True):
    test: Callable[[str], bool]

    def matches(self, character: str) -> bool:
        return self.test(character)


class _Token(msgspec.Struct, frozen=True):
    kind: _Kind
    character: str = ""
    members: tuple[_Range | _Class, ...] = ()
    negated: bool = False


class Pattern(msgspec.Struct, frozen=True):
    """One compiled rule. `expression` is its regular expression without the `!`, or None when it has none."""

    text: str
    negated: bool
    directories_only: bool
    expression: str | None
    _tokens: tuple[_Token, ...]
    _match: Callable[[str], object]

    def matches(self, path: str, *, is_directory: bool) -> bool:
        """Whether an entry is to be ignored after this rule; for a `!` rule: whether it stays ignored.

        `path` starts with a slash and is relative to the root of the backup.
        """
        if self.directories_only and not is_directory:
            return self.negated
        return bool(self._match(path)) != self.negated


def go_text(raw: bytes) -> str:
    """Text as Go sees it: each byte that is not UTF-8 is one U+FFFD."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="surrogateescape").translate(_REPLACED)


def compile_pattern(text: str, base: str = "") -> Pattern:
    """A rule that stands in the directory `base` (`""` for the root, else `/a/b`). Raises `PatternError`."""
    raw = text.encode(errors="replace")
    if len(raw) > 2 and raw[-2:-1] != b"\\":
        text = text.strip(_SPACE)
    scanner = _Scanner(text)
    while scanner.peek() != _END and scanner.peek() in _SPACE:
        scanner.read()
    negated = scanner.peek() == "!"
    if negated:
        scanner.read()
    rooted = scanner.peek() == "/"
    tokens: list[_Token] = []
    if base and text:
        tokens += [_literal(character) for character in base.rstrip("/")]
        if not rooted:
            tokens.append(_Token(_Kind.SLASH))
    if not rooted and text not in ("**", ""):
        slash = scanner.text.find("/", scanner.at)
        if slash < 0 or slash == len(scanner.text) - 1:
            tokens += [_Token(_Kind.DOUBLE_STAR), _Token(_Kind.SLASH)]
        elif not base:
            tokens.append(_Token(_Kind.SLASH))
    directories_only = scanner.text.endswith("/")
    if directories_only:
        scanner.text = scanner.text[:-1]
    _scan(scanner, tokens, text)
    found = tuple(tokens)
    expression = _expression(found)
    match: Callable[[str], object] = (
        re.compile(expression, re.DOTALL).fullmatch
        if expression is not None
        else lambda path: _backtrack(found, 0, path, 0, {}) is _Result.MATCH
    )
    return Pattern(text, negated, directories_only, expression, found, match)


class _Scanner:
    """Characters of a pattern; NUL stands for its end, as in kopia."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.text[at] if 0 <= at < len(self.text) else _END

    def read(self) -> str:
        character = self.peek()
        if character != _END:
            self.at += 1
        return character


def _literal(character: str) -> _Token:
    return _Token(_Kind.SLASH) if character == "/" else _Token(_Kind.CHARACTER, character)


def _scan(scanner: _Scanner, tokens: list[_Token], text: str) -> None:
    while (character := scanner.read()) != _END:
        if character == "\\":
            if scanner.at >= len(scanner.text):
                raise PatternError(f"the pattern {text!r} ends after a backslash")
            tokens.append(_Token(_Kind.CHARACTER, scanner.read()))
        elif character == "?":
            tokens.append(_Token(_Kind.ANY))
        elif character == "*":
            tokens.append(_Token(_star(scanner)))
        elif character == "[":
            tokens.append(_set(scanner, text))
        else:
            tokens.append(_literal(character))


def _star(scanner: _Scanner) -> _Kind:
    if scanner.peek() != "*":
        return _Kind.STAR
    before = scanner.peek(-2)
    while scanner.peek() == "*":
        scanner.read()
    ends = scanner.peek() == "/" or scanner.at >= len(scanner.text)
    return _Kind.DOUBLE_STAR if before == _END or (before == "/" and ends) else _Kind.STAR


def _set(scanner: _Scanner, text: str) -> _Token:
    character = scanner.read()
    negated = character == "!"
    if negated:
        character = scanner.read()
    members: list[_Range | _Class] = []
    while character not in ("]", _END):
        if character == "\\":
            character = _escaped(scanner, text)
        if scanner.peek() == "-" and scanner.peek(1) not in ("]", _END):
            scanner.read()
            last = scanner.read()
            members.append(_Range(character, _escaped(scanner, text) if last == "\\" else last))
        elif character == "[" and scanner.peek() == ":":
            members.append(_class(scanner, text))
        else:
            members.append(_Range(character, character))
        character = scanner.read()
    if character != "]":
        raise PatternError(f"the pattern {text!r} has a '[' without its ']'")
    return _Token(_Kind.SET, members=tuple(members), negated=negated)


def _escaped(scanner: _Scanner, text: str) -> str:
    character = scanner.read()
    if character == _END:
        raise PatternError(f"the pattern {text!r} ends after a backslash")
    return character


def _class(scanner: _Scanner, text: str) -> _Range | _Class:
    closing = scanner.text.find("]", scanner.at) - scanner.at
    if closing < 0:
        raise PatternError(f"the pattern {text!r} has a '[' without its ']'")
    # Kopia compares an offset with a position here; a class late in a pattern is then plain characters.
    if closing - 1 <= scanner.at or scanner.peek(closing - 1) != ":":
        return _Range("[", "[")
    name = scanner.text[scanner.at + 1 : scanner.at + closing - 1].lower()
    scanner.at += closing + 1
    test = _CLASSES.get(name)
    if test is None:
        raise PatternError(f"the pattern {text!r} names the unknown class [:{name}:]")
    return _Class(test)


def _in(*categories: str) -> Callable[[str], bool]:
    return lambda character: unicodedata.category(character).startswith(categories)


_CLASSES: dict[str, Callable[[str], bool]] = {
    "alnum": _in("L", "Nd"),
    "alpha": _in("L"),
    "ascii": lambda character: character <= "\x7f",
    "blank": lambda character: character == "\t" or unicodedata.category(character) == "Zs",
    "cntrl": _in("Cc"),
    "digit": _in("Nd"),
    "graph": _in("L", "M", "N", "P", "S", "Zs"),
    "lower": _in("Ll"),
    "print": lambda character: character == " " or _in("L", "M", "N", "P", "S")(character),
    "punct": _in("P", "S"),
    "space": lambda character: character in _SPACE,
    "upper": _in("Lu"),
    "xdigit": lambda character: character in "ABCDEFabcdef" or unicodedata.category(character) == "Nd",
}


def _expression(tokens: tuple[_Token, ...]) -> str | None:
    """The same as `_backtrack` as a regular expression, or None.

    It is the same while at most one star has anything but a slash behind it and no other star follows that one; and it
    takes no longer than the path is, while there is at most one double star in the middle.
    """
    parts: list[str] = []
    i, inner_stars, double_stars = 0, 0, 0
    while i < len(tokens):
        token, rest = tokens[i], tokens[i + 1 :]
        if token.kind is _Kind.DOUBLE_STAR and rest:
            if inner_stars or double_stars or len(rest) < 2 or rest[0].kind is not _Kind.SLASH:
                return None
            double_stars += 1
            parts.append("(?:|.*/)")
            i += 1
        elif token.kind is _Kind.STAR and rest:
            if inner_stars:
                return None
            if rest[0].kind is _Kind.SLASH:
                parts.append("[^/]*" if i and tokens[i - 1].kind is not _Kind.SLASH else "[^/]+")
            else:
                parts.append("(?:[^/]*|[^/]+/)")
                inner_stars += 1
        else:
            part = _single_expression(token)
            if part is None:
                return None
            parts.append(part)
        i += 1
    return "".join(parts)


def _single_expression(token: _Token) -> str | None:
    """A token that is not a star with something behind it."""
    if token.kind is _Kind.SET:
        return _set_expression(token)
    if token.kind is _Kind.CHARACTER:
        return re.escape(token.character)
    return {_Kind.DOUBLE_STAR: ".*", _Kind.STAR: "[^/]*", _Kind.SLASH: "/", _Kind.ANY: "[^/]"}[token.kind]


def _set_expression(token: _Token) -> str | None:
    ranges = [member for member in token.members if isinstance(member, _Range)]
    if len(ranges) < len(token.members):
        return None
    inside = "".join(f"{re.escape(r.first)}-{re.escape(r.last)}" for r in ranges if r.first <= r.last)
    if not inside:
        return "." if token.negated else "(?!)"
    return f"[{'^' if token.negated else ''}{inside}]"


class _Result(enum.Enum):
    MATCH = 0
    NO_MATCH = 1
    ABORT_ALL = 2
    ABORT_TO_DOUBLE_STAR = 3


_Known = dict[tuple[int, int], _Result]


def _backtrack(tokens: tuple[_Token, ...], first: int, text: str, start: int, known: _Known) -> _Result:
    """Match tokens from `first` on against all of the text from `start` on, as kopia does.

    `known` holds what was found out already, so that no pattern takes exponential time.
    """
    result = known.get((first, start))
    if result is None:
        result = known[first, start] = _try(tokens, first, text, start, known)
    return result


def _try(tokens: tuple[_Token, ...], first: int, text: str, start: int, known: _Known) -> _Result:
    at = start
    for i in range(first, len(tokens)):
        token = tokens[i]
        is_star = token.kind in (_Kind.STAR, _Kind.DOUBLE_STAR)
        if at >= len(text) and not is_star:
            return _Result.ABORT_ALL
        if is_star:
            if i == len(tokens) - 1:
                return _Result.NO_MATCH if token.kind is _Kind.STAR and "/" in text[at:] else _Result.MATCH
            if token.kind is _Kind.STAR and tokens[i + 1].kind is _Kind.SLASH:
                slash = text.find("/", at)
                if slash < 0 or slash == start:
                    return _Result.NO_MATCH
                at = slash
                continue
            return _after_star(tokens, i, text, at, known)
        character = text[at]
        if token.kind is _Kind.CHARACTER:
            matched = character == token.character
        elif token.kind is _Kind.SLASH:
            matched = character == "/"
        elif token.kind is _Kind.ANY:
            matched = character != "/"
        else:
            matched = any(member.matches(character) for member in token.members) != token.negated
        if not matched:
            return _Result.NO_MATCH
        at += 1
    return _Result.MATCH if at >= len(text) else _Result.NO_MATCH


def _after_star(tokens: tuple[_Token, ...], i: int, text: str, at: int, known: _Known) -> _Result:
    double = tokens[i].kind is _Kind.DOUBLE_STAR
    if (
        double
        and i + 2 < len(tokens)
        and tokens[i + 1].kind is _Kind.SLASH
        and _backtrack(tokens, i + 2, text, at, known) is _Result.MATCH
    ):
        return _Result.MATCH
    passed = text[at : at + 1]
    while at < len(text):
        result = _backtrack(tokens, i + 1, text, at, known)
        if result is not _Result.NO_MATCH:
            if not double or result is not _Result.ABORT_TO_DOUBLE_STAR:
                return result
        elif not double and passed == "/":
            return _Result.ABORT_TO_DOUBLE_STAR
        passed = text[at]
        at += 1
    return _Result.ABORT_ALL
