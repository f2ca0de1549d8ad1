"""RFC 3678's delta API: what each step makes of each state, and the errno that Linux gives instead.

RFC 3678 sections 4.1.2 and 4.1.3; the errors as Linux 6.18 answered when each was tried on a socket.
"""

from __future__ import annotations

import errno
from ipaddress import IPv4Address

import pytest

from trio_ipv4._codec import explicit_steps
from trio_ipv4._values.source_filter import SourceFilter

A, B = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
ANY, NONE = SourceFilter.any(), SourceFilter.none()
INCLUDE, EXCLUDE = SourceFilter.include, SourceFilter.exclude
STEPS = {
    "join": explicit_steps.join,
    "leave": explicit_steps.leave,
    "join source A": explicit_steps.join_source(A),
    "leave source A": explicit_steps.leave_source(A),
    "exclude A": explicit_steps.exclude_source(A),
    "include A": explicit_steps.include_source(A),
    "replace by INCLUDE {A}": explicit_steps.replace(INCLUDE(A)),
    "replace by EXCLUDE {}": explicit_steps.replace(ANY),
    "replace by INCLUDE {}": explicit_steps.replace(NONE),
}
HOLDS = [None, ANY, INCLUDE(A), INCLUDE(B), INCLUDE(A, B), EXCLUDE(A), EXCLUDE(B)]
IN_USE, NOT_THERE, INVALID = errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EINVAL
TABLE: dict[str, list[SourceFilter | int | None]] = {
    # from: nothing,     any,        INCLUDE A,  INCLUDE B,     INCLUDE A B, EXCLUDE A,  EXCLUDE B
    "join": [ANY, IN_USE, IN_USE, IN_USE, IN_USE, IN_USE, IN_USE],
    "leave": [NOT_THERE, None, None, None, None, None, None],
    "join source A": [INCLUDE(A), INVALID, NOT_THERE, INCLUDE(A, B), NOT_THERE, INVALID, INVALID],
    "leave source A": [INVALID, INVALID, None, NOT_THERE, INCLUDE(B), INVALID, INVALID],
    "exclude A": [INVALID, EXCLUDE(A), INVALID, INVALID, INVALID, NOT_THERE, EXCLUDE(A, B)],
    "include A": [INVALID, NOT_THERE, INVALID, INVALID, INVALID, ANY, NOT_THERE],
    "replace by INCLUDE {A}": [INCLUDE(A)] * 7,
    "replace by EXCLUDE {}": [ANY] * 7,
    "replace by INCLUDE {}": [None] * 7,
}


@pytest.mark.parametrize(
    ("step", "hold", "expected"),
    [(step, hold, expected) for step, row in TABLE.items() for hold, expected in zip(HOLDS, row, strict=True)],
    ids=str,
)
def test_each_step_from_each_state(step: str, hold: SourceFilter | None, expected: SourceFilter | int | None) -> None:
    if isinstance(expected, int):
        with pytest.raises(explicit_steps.IllegalStep) as illegal:
            STEPS[step](hold)
        assert illegal.value.errno == expected
        assert illegal.value.args == (expected,)
    else:
        assert STEPS[step](hold) == expected
