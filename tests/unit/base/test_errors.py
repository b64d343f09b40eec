"""The error tree keeps its promises to scripts and dashboards."""

from collections.abc import Iterator

from agent.base import errors


def _leaves(cls: type[errors.LighterageError]) -> Iterator[type[errors.LighterageError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _leaves(sub)


def test_every_error_has_a_code_of_its_own_and_a_sentence() -> None:
    all_errors = list(_leaves(errors.LighterageError))
    codes = [e.code for e in all_errors]
    assert len(codes) == len(set(codes)) > 40
    assert all(e.__doc__ for e in all_errors)


def test_exit_statuses_are_outside_what_shells_use() -> None:
    assert all(0 < e.exit_status < 126 for e in _leaves(errors.LighterageError))


def test_the_hint_follows_the_sentence() -> None:
    error = errors.WrongPassword("cannot open s3://b/p: wrong password", hint="check --password-file")
    assert str(error) == "cannot open s3://b/p: wrong password; check --password-file"
