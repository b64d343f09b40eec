"""Quantities, durations and names are those of Kubernetes, Go and Velero."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kube.durations import format_duration, parse_duration
from agent.kube.names import is_dns_label, is_dns_subdomain, repository_name, valid_name
from agent.kube.quantities import format_bytes, format_quantity, parse_bytes, parse_quantity

_SECOND = 10**9


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("128974848", 128974848),
        ("129e6", 129_000_000),
        ("129M", 129_000_000),
        ("128974848000m", 128974848),
        ("123Mi", 123 << 20),
        ("0.1", Fraction(1, 10)),
        ("100m", Fraction(1, 10)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("1.5Gi", 3 << 29),
        ("1E", 10**18),
        ("1E2", 100),
        ("1e-3", Fraction(1, 1000)),
        ("1Ki", 1024),
        ("1k", 1000),
        ("+1n", Fraction(1, 10**9)),
        ("0.5n", Fraction(1, 10**9)),
        ("-1u", Fraction(-1, 10**6)),
        ("8Ei", (1 << 63) - 1),
    ],
)
def test_quantities_mean_what_kubernetes_says(text: str, amount: Fraction | int) -> None:
    assert parse_quantity(text) == amount


@pytest.mark.parametrize(
    "text", ["", ".", "1 Gi", "1GB", "1ki", "Gi", "1e", "1e1M", "--1", "1_0", "٣", "1e31", "9" * 65]
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        parse_quantity(text)


def test_sizes_round_up_and_are_never_negative() -> None:
    assert parse_bytes("1500m") == 2
    assert parse_bytes("10Gi") == 10 << 30
    with pytest.raises(ValueError, match="negative"):
        parse_bytes("-1")


@given(st.integers(min_value=0, max_value=(1 << 63) - 1))
def test_sizes_come_back(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == size


@given(st.integers(min_value=0, max_value=(1 << 63) - 1))
def test_amounts_come_back_to_the_nano(nanos: int) -> None:
    amount = Fraction(nanos, 10**9)
    assert parse_quantity(format_quantity(amount)) == amount


@pytest.mark.parametrize(
    ("size", "text"), [(1 << 30, "1Gi"), (1000, "1000"), (0, "0"), (1536, "1536"), (3 << 9, "1536")]
)
def test_sizes_are_written_with_the_largest_exact_suffix(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("10m0s", 600 * _SECOND),
        ("1h0m0s", 3600 * _SECOND),
        ("4h", 4 * 3600 * _SECOND),
        ("1h2m3.5s", 3723 * _SECOND + _SECOND // 2),
        ("-1.5h", -5400 * _SECOND),
        ("+5s", 5 * _SECOND),
        ("0", 0),
        ("-0", 0),
        ("100ms", _SECOND // 10),
        (".5s", _SECOND // 2),
        ("1.s", _SECOND),
        ("3us", 3000),
        ("3µs", 3000),
    ],
)
def test_durations_are_read_as_go_reads_them(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize("text", ["", "-", "3", "s", ".s", "1d", "1h ", "1 h", "1h-2m", "300000000h", "1" * 70 + "s"])
def test_what_go_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1100, "1.1µs"),
        (2_200_000, "2.2ms"),
        (3_300_000_000, "3.3s"),
        (300 * _SECOND, "5m0s"),
        (245_001_000_000, "4m5.001s"),
        (18_367_001_000_000, "5h6m7.001s"),
        (-600 * _SECOND, "-10m0s"),
    ],
)
def test_durations_are_written_as_go_writes_them(ns: int, text: str) -> None:
    assert format_duration(ns) == text


@given(st.integers(min_value=-(1 << 63) + 1, max_value=(1 << 63) - 1))
def test_durations_come_back(ns: int) -> None:
    assert parse_duration(format_duration(ns)) == ns


def test_names_longer_than_a_label_are_cut_and_hashed_as_velero_does() -> None:
    backup, pvc = "ff37fffc-9053-4525-b5eb-b976705247f2", "dbde6626-a286-4e65-a953-666225973a0c"
    recorded = "du-ff37fffc-9053-4525-b5eb-b976705247f2.dbde6626-a286-4e6bd2983"
    assert valid_name(f"du-{backup}.{pvc}") == recorded
    assert valid_name("x" * 63) == "x" * 63
    assert len(valid_name("x" * 64)) == 63
    assert repository_name("app", "default") == "app-default-kopia"


@pytest.mark.parametrize(("name", "label", "subdomain"), [("a", 1, 1), ("a-b.c", 0, 1), ("A", 0, 0), ("-a", 0, 0)])
def test_names_of_objects_are_checked(name: str, label: int, subdomain: int) -> None:
    assert (is_dns_label(name), is_dns_subdomain(name)) == (bool(label), bool(subdomain))


@pytest.mark.parametrize("name", ["", ".", "a..b", "../etc", "a/b", "a" * 254, "a\n"])
def test_names_that_lead_elsewhere_are_none(name: str) -> None:
    assert not is_dns_subdomain(name)
