"""Figures, as people read them."""

from __future__ import annotations

from typing import Final

_ECN: Final = {1: "ECT(1)", 2: "ECT(0)", 3: "CE"}  # RFC 3168 section 5
_UNITS: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


def show_seconds(seconds: float) -> str:
    """Show a duration in three digits or so."""
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    # 0.9995 s would be 1e+03 ms in three digits.
    size, unit = next(each for each in _UNITS if seconds >= 0.9995 * each[0] or each is _UNITS[-1])
    return f"{seconds / size:.3g} {unit}"


def show_rate(rate: float) -> str:
    """Show a rate: with a prefix of SI from 10,000,000 on."""
    for size, prefix in ((1e9, "G"), (1e6, "M")):
        if rate >= 10 * size or (size == 1e9 and rate >= size):
            return f"{rate / size:,.1f}{prefix}"
    return f"{rate:,.0f}" if rate >= 10 or rate == 0 else f"{rate:.1f}"


def show_range(values: tuple[int, ...]) -> str:
    """Show the least and the most of sorted values."""
    if not values:
        return "-"
    return str(values[0]) if values[0] == values[-1] else f"{values[0]}-{values[-1]}"


def show_tos(tos: int) -> str:
    """Show a TOS octet, with its ECN bits in words."""
    ecn = _ECN.get(tos & 3)
    return f"0x{tos:02x}" + (f" {ecn}" if ecn else "")


def show_share(part: int, whole: int) -> str:
    """Show a part that is not nothing in per cent."""
    share = 100 * part / whole
    return f"{share:.1f}%" if share >= 0.05 else "less than 0.1%"


def show_optional(count: int | None) -> str:
    """Show a count; a dash if there is none."""
    return "-" if count is None else f"{count:,}"
