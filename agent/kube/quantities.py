"""Resource quantities (`100m`, `1.5Gi`, `1e3`), exact.

A quantity is a `Fraction` in units of one (bytes, cores). The API server keeps nothing smaller than a nano and nothing
larger than 2^63-1; parsing does the same (rounding up), so two texts of the same amount compare equal.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

_BINARY = {suffix: 1024**power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
_DECIMAL = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
}
_MAX = (1 << 63) - 1
_MAX_LENGTH = 64
_MAX_EXPONENT = 30
_QUANTITY = re.compile(
    r"([+-]?)(\d+\.?\d*|\.\d+)(?:(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E)|[eE]([+-]?\d{1,3}))?", re.ASCII
)


def parse_quantity(text: str) -> Fraction:
    """The amount that `text` names; `ValueError` for anything that is no quantity."""
    match = _QUANTITY.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    if match is None:
        raise ValueError(f"not a quantity: {text[:_MAX_LENGTH]!r}")
    sign, number, suffix, exponent = match.groups()
    amount = Fraction(number)
    if exponent is not None:
        if abs(int(exponent)) > _MAX_EXPONENT:
            raise ValueError(f"a quantity with too large an exponent: {text!r}")
        amount *= Fraction(10) ** int(exponent)
    elif suffix in _BINARY:
        amount *= _BINARY[suffix]
    else:
        amount *= _DECIMAL[suffix or ""]
    amount = min(Fraction(math.ceil(amount * 10**9), 10**9), Fraction(_MAX))
    return -amount if sign == "-" else amount


def parse_bytes(text: str) -> int:
    """A size in bytes, fractions rounded up, as the scheduler does; `ValueError` for what is no size."""
    size = math.ceil(parse_quantity(text))
    if size < 0:
        raise ValueError(f"a negative size: {text!r}")
    return size


def format_bytes(size: int) -> str:
    """A size with the largest binary suffix that keeps it exact: `1073741824` -> `1Gi`, `1000` -> `1000`."""
    for suffix, unit in reversed(_BINARY.items()):
        if size and size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)


def format_quantity(amount: Fraction) -> str:
    """An amount with the largest decimal suffix that keeps it exact: `1/10` -> `100m`, `1000` -> `1k`.

    Amounts finer than a nano are rounded up.
    """
    nanos = math.ceil(amount * 10**9)
    if nanos == 0:
        return "0"
    for suffix, unit in reversed(_DECIMAL.items()):
        count = Fraction(nanos, 10**9) / unit
        if count.denominator == 1:
            return f"{count.numerator}{suffix}"
    raise AssertionError("a whole number of nanos always has a suffix")
