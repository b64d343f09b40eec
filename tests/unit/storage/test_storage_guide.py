"""docs/storage.md says what the code does."""

import re
from pathlib import Path

import pytest

from agent.storage.open import folder_of
from agent.storage.s3_config import URL_OPTIONS, parse_s3_url

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "storage.md").read_text(encoding="utf-8")
URLS = [url for url in re.findall(r"(?:s3|file)://[^\s`|]+", GUIDE) if not url.startswith("s3://BUCKET")]


@pytest.mark.parametrize("url", URLS)
def test_every_example_is_understood(url: str) -> None:
    if url.startswith("file:"):
        assert folder_of(url).startswith("/")
        return
    config = parse_s3_url(url, {})
    assert config.prefix.endswith("/")
    assert config.bucket in ("backups", "velero")


def test_the_examples_are_there() -> None:
    assert len(URLS) >= 9


def test_every_option_is_explained_and_every_explained_one_exists() -> None:
    table = GUIDE.partition("### Options")[2].partition("### Environment")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert sorted(name for cell in cells for name in re.findall(r"`(\w+)`", cell)) == sorted(URL_OPTIONS)


def test_every_variable_of_ours_is_explained() -> None:
    source = Path(parse_s3_url.__code__.co_filename).read_text(encoding="utf-8")
    for name in re.findall(r'"((?:LIGHTERAGE|AWS)_\w+)"', source):
        assert f"`{name}`" in GUIDE
