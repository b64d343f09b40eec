"""Wildcard patterns: the corner cases of kopia's own matcher, and two ways of matching that must agree."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.snapshots import wildcard
from agent.snapshots.wildcard import PatternError, compile_pattern, go_text


@pytest.mark.parametrize(
    ("pattern", "base", "path", "matched"),
    [
        ("*", "/base", "/foo", False),
        ("*", "/base", "/base/foo", True),
        ("*.txt", "/base", "/base/x/foo.txt", True),
        ("/src/f", "/base", "/base/src/f", True),
        ("src/f", "/base", "/base/x/src/f", False),
        ("**/src/f", "/base", "/base/x/src/f", True),
        ("a*b", "", "/ab", True),
        ("a*b", "", "/ax/b", True),  # a star may swallow one slash behind what it took
        ("a*b", "", "/a/b", False),
        ("a*/b", "", "/a/b", True),
        ("a/**", "", "/a", False),
        ("a/**", "", "/a/b/c", True),
        ("a/**/b", "", "/a/b", True),
        ("[[:digit:]]", "", "/7", True),
        ("[!a-c]", "", "/d", True),
        ("[z-a]", "", "/m", False),
        ("\\!x", "", "/!x", True),
        ("?", "", "/é", True),
    ],
)
def test_patterns_match_as_in_kopia(pattern: str, base: str, path: str, matched: bool) -> None:
    assert compile_pattern(pattern, base).matches(path, is_directory=False) is matched


def test_a_rule_for_directories_leaves_files_as_they_are() -> None:
    assert not compile_pattern("a/").matches("/a", is_directory=False)
    assert compile_pattern("a/").matches("/a", is_directory=True)
    assert compile_pattern("!a/").matches("/a", is_directory=False), "a file that is ignored stays so"
    assert not compile_pattern("!a/").matches("/a", is_directory=True)


@pytest.mark.parametrize("pattern", ["[a", "abc\\", "[[:nope:]]", "[a\\", "[a-\\"])
def test_patterns_without_an_end_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compile_pattern(pattern)


def test_each_bad_byte_of_a_name_is_one_replacement_character() -> None:
    assert go_text(b"a\xffb\xe2\x82") == "a\ufffdb\ufffd\ufffd"
    assert go_text("é".encode()) == "é"


_pieces = st.sampled_from(["a", "b", "*", "**", "?", "/", "[ab]", "[!a]", "**/", "/**", "\\*", "x"])


@settings(max_examples=600)
@given(
    pattern=st.lists(_pieces, min_size=1, max_size=7).map("".join),
    path=st.lists(st.text("abx", min_size=1, max_size=3), min_size=1, max_size=4).map(lambda p: "/" + "/".join(p)),
)
def test_the_regular_expression_agrees_with_the_backtracking(pattern: str, path: str) -> None:
    compiled = compile_pattern(pattern)
    if compiled.expression is None:
        return
    slow = wildcard._backtrack(compiled._tokens, 0, path, 0, {}) is wildcard._Result.MATCH
    assert bool(compiled._match(path)) == slow


def test_no_pattern_takes_exponential_time() -> None:
    path = "/" + "a/" * 150 + "b"
    for pattern in ("**/a/" * 20 + "c", "**/" * 40 + "c", "a*" * 60 + "c", "**/*a*/" * 10 + "c", "*a" * 60):
        assert not compile_pattern(pattern).matches(path, is_directory=False)
