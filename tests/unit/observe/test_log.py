"""What a line of the log looks like, and what is in none."""

import io
import json
import logging
from datetime import datetime

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from agent.base.errors import UsageError
from agent.movers.spec import Secrets
from agent.observe.log import LogFormat, Logging, LogOptions, job_fields

SECRET = "wJalrXUtnFEMI/K7MDENG"


@pytest.fixture(autouse=True)
def own_logs():
    """Logging is the process's: what a test changes is put back."""
    root, configured = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.configure(**configured)


def installed(form=LogFormat.JSON, level="info"):
    stream = io.StringIO()
    logs = Logging(LogOptions(form, level), stream)
    logs.install()
    return logs, stream


def logger():
    return structlog.stdlib.get_logger("agent.test")


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_of_json_has_the_names_of_the_stock_agent():
    _, stream = installed()
    logger().warning("it waits", seconds=3, names=["a", "b"])
    (line,) = lines(stream)
    assert (line["level"], line["msg"], line["seconds"], line["names"]) == ("warning", "it waits", 3, ["a", "b"])
    assert datetime.fromisoformat(line["time"]).tzinfo is not None


def test_a_line_of_text_is_logfmt_and_one_line_whatever_is_in_it():
    _, stream = installed(LogFormat.TEXT)
    logger().info('he said "no"\nlevel=error \x1b[31mred', file="/a b", flag=True, inner={"x": [1]})
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("time=") and "level=info msg=" in line and "flag=true" in line
    assert "\x1b" not in line and r"\x1b[31mred" in line and 'file="/a b"' in line


def test_every_line_about_a_job_says_which():
    _, stream = installed()
    with structlog.contextvars.bound_contextvars(**job_fields("DataUpload", "daily-x", "shop/data", "uid-1")):
        logger().info("begins")
        logging.getLogger("some.library").warning("slow %s", "disk")
    for line in lines(stream):
        assert line["kind"] == "DataUpload" and line["name"] == "daily-x"
        assert line["volume"] == "shop/data" and line["job"] == "uid-1"
    assert lines(stream)[1]["msg"] == "slow disk"


@pytest.mark.parametrize("form", LogFormat)
def test_secrets_are_in_no_line_however_they_are_logged(form):
    logs, stream = installed(form, "debug")
    secrets = Secrets(password="correct-horse", secret_key=SECRET)
    logs.redaction.hide(["correct-horse", SECRET])
    log = logger()
    log.info(f"with {SECRET}", value=secrets, nested={"deep": [secrets, ("x", f"a{SECRET}b")]}, raw=SECRET.encode())
    log.info("by key", password="unknown-1", api_token="unknown-2", headers={"Authorization": "unknown-3"})
    log.info("proxy http://user:unknown-4@proxy:3128 said Bearer unknown-5-abcdef")
    log.info("aws_secret_access_key = unknown-6")
    logging.getLogger("library").error("failed with %s", SECRET, extra={"secret_key": "unknown-7"})
    logging.getLogger("botocore.auth").debug("signing with unknown-8")
    log.info("positional %s", SECRET)
    log.bind(**{SECRET: 1}).info("as a key")
    text = stream.getvalue()
    assert SECRET not in text and "correct-horse" not in text and "unknown-" not in text
    assert text.count("***") >= 10


_TEXT = st.text(st.characters(exclude_characters="*\\", exclude_categories=("Cc", "Cs")), max_size=20)
_NESTED = st.recursive(
    st.builds(lambda before, after: lambda word: before + word + after, _TEXT, _TEXT),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: lambda word: [part(word) for part in parts])
        | st.builds(lambda key, part: lambda word: {key + word: part(word)}, _TEXT, inner)
        | inner.map(lambda part: lambda word: (part(word).__repr__(), word.encode(), Secrets(password=word)))
    ),
    max_leaves=5,
)


@pytest.mark.parametrize("form", LogFormat)
@given(word=st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=6, max_size=40), made=_NESTED)
def test_a_secret_that_is_known_is_in_no_line_whatever_holds_it(form, word, made):
    logs, stream = installed(form)
    logs.redaction.hide([word])
    before = len(stream.getvalue())
    logger().info("it happens", value=made(word), more=[made(word)])
    logger().warning("of %s", made(word))
    assert stream.getvalue()[before:]
    assert not (word in stream.getvalue() and word not in "it happens info warning value more agent.test 2026")


def test_a_traceback_is_logged_without_the_values_of_variables():
    logs, stream = installed()
    logs.redaction.hide([SECRET])

    def fails(password):
        local = f"value-of-{password}"
        raise ValueError(f"cannot use {SECRET} of {len(local)}")

    try:
        fails("".join(("hun", "ter2")))
    except ValueError:
        logger().exception("it failed")
    (line,) = lines(stream)
    assert "ValueError: cannot use *** of" in line["exception"] and "fails" in line["exception"]
    assert "hunter2" not in stream.getvalue() and SECRET not in stream.getvalue()


def test_short_words_are_not_torn_out_of_ordinary_ones():
    logs, stream = installed()
    logs.redaction.hide(["a", "", "info"])
    logger().info("a bad day, informed")
    assert lines(stream)[0]["msg"] == "a bad day, informed"


def test_the_longest_of_two_secrets_is_hidden_whole():
    logs, stream = installed()
    logs.redaction.hide(["secret1", "secret1-and-more"])
    logger().info("x secret1-and-more y secret1 z")
    assert lines(stream)[0]["msg"] == "x *** y *** z"


def test_words_to_hide_are_bounded_and_the_latest_stay():
    logs, stream = installed()
    for number in range(0, 5_000, 500):
        logs.redaction.hide([f"word-number-{n}-" for n in range(number, number + 500)])
    logger().info("word-number-4999- and word-number-0-")
    assert lines(stream)[0]["msg"] == "*** and word-number-0-"


def test_levels_are_velero_s_and_change_while_it_runs():
    logs, stream = installed(level="Warning")
    logger().info("unseen")
    logs.set_level("debug")
    logger().debug("seen")
    logs.set_level("")
    logger().info("unseen again")
    assert [line["msg"] for line in lines(stream)] == ["seen"]
    with pytest.raises(UsageError, match="'loud'"):
        logs.set_level("loud")
    with pytest.raises(UsageError):
        Logging(LogOptions(level="loud"))


def test_something_endless_is_cut():
    _, stream = installed()
    deep = []
    deep.append(deep)
    logger().info("x" * 1_000_000, deep=deep, surrogate="\udcff")
    assert len(stream.getvalue()) < 40_000 and "\\udcff" in lines(stream)[0]["surrogate"]
