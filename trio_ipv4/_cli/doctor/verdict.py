"""What the doctor concludes."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

import attrs

from trio_ipv4._cli.output import Record

Certainty: TypeAlias = Literal["proved", "likely", "cannot-tell"]
CANNOT_TELL = "cannot-tell"
"""The code where no cause is named."""


@attrs.frozen
class Verdict(Record):
    """The end of an examination. Its words are sentences, without a line break."""

    event: ClassVar[str] = "verdict"

    code: str
    """A key of `causes.CAUSES`; or "cannot-tell"."""
    certainty: Certainty
    text: str
    """The finding, in a line."""
    evidence: tuple[str, ...] = ()
    """What it stands on, the strongest first."""
    others: tuple[str, ...] = ()
    """Codes of what it could be as well."""
    needs: tuple[str, ...] = ()
    """What would tell more, and how to get it."""
    fix: tuple[str, ...] = ()
    """What mends it: commands, or a sentence for each thing to do."""
    in_any_case: tuple[str, ...] = ()
    """Codes of what else is wrong, and has to be mended, too."""
    disturbed: tuple[str, ...] = ()
    """What the examination itself changed, and for how long."""
