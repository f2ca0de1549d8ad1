"""A finding: what one rule concludes."""

from __future__ import annotations

import enum
import functools

import attrs


class Where(enum.IntEnum):
    """Where a fault lies, in the order in which findings are told."""

    TABLES = 0
    """The tables alone say it: nothing could arrive."""
    HOST = 1
    """On this host, between the driver and the socket."""
    PROGRAM = 2
    NETWORK = 3


@attrs.frozen
class Finding:
    """What a rule concludes.

    Args:
        code: A key of `causes.CAUSES`.
        evidence: Sentences.
        where: Where it lies.
        sure: It is proved: nothing else explains the evidence. Else it is likely.
        others: Codes that explain the evidence as well.
        needs: What would tell more.
        cure: What mends it; empty: what the table of causes says.
    """

    code: str
    evidence: tuple[str, ...]
    where: Where = Where.HOST
    sure: bool = True
    others: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    cure: tuple[str, ...] = ()


def found(
    code: str,
    *evidence: str,
    where: Where = Where.HOST,
    sure: bool = True,
    others: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
    cure: tuple[str, ...] = (),
) -> Finding:
    """Return a finding."""
    return Finding(code, evidence, where, sure, others, needs, cure)


in_the_tables = functools.partial(found, where=Where.TABLES)
in_the_program = functools.partial(found, where=Where.PROGRAM)
in_the_network = functools.partial(found, where=Where.NETWORK)

NEEDS_WIRE = "With CAP_NET_RAW the wire can be heard: run this as root."
WITH_PID = "Name the program: --pid PID, as its own user or as root."


@attrs.frozen
class Unknown:
    """What a rule can't tell: one of these."""

    codes: tuple[str, ...]
    evidence: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
