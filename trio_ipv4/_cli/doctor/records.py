"""What the command shows beside the evidence: what is going on, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import attrs

from trio_ipv4._cli.doctor.causes import CAUSES, HEALTHY
from trio_ipv4._cli.doctor.evidence import Program
from trio_ipv4._cli.doctor.verdict import CANNOT_TELL, Verdict
from trio_ipv4._cli.output import Line, Remark, Report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ipv4._cli.doctor.case import Case
    from trio_ipv4._cli.doctor.evidence import Phase

_WITNESSES: Final = {
    # What people call them, in the order in which they are told.
    "links": "tables",
    "settings": "tables",
    "routes": "tables",
    "input_route": "tables",
    "membership": "tables",
    "sockets": "tables",
    "elsewhere": "tables",
    "bridges": "tables",
    "router": "tables",
    "counters": "counters",
    "wire": "wire",
    "igmp": "wire",
    "twins": "other programs' memberships",
    "own_receiver": "our own receiver",
    "program": "program",
    "drops": "drop reasons",
    "test_join": "reports",
    "own_report": "a report of our own",
    "unicast": "unicast",
    "rules": "firewall rules",
}
_DOING: Final[dict[str, str]] = {
    "before": "Looking at {what} for {seconds:g} s, without joining.",
    "joined": "Joining {what} for {seconds:g} s.",
    "test_join": "Joining a test group that nobody uses, to see whether this host's reports go out.",
    "probe": "Sending an IGMP report for {what}, and looking whether it comes.",
}
_STYLES: Final = {"proved": "bold red", "likely": "bold yellow", "cannot-tell": "bold"}


@attrs.frozen
class Looking(Remark):
    """What is done now."""

    event: ClassVar[str] = "looking"
    phase: Phase
    seconds: float | None
    what: str

    def text(self) -> str:
        """Return the words."""
        return _DOING[self.phase].format(what=self.what, seconds=self.seconds)


@attrs.frozen
class Conclusion(Verdict, Report):
    """The verdict, and what it could take in.

    Args:
        looked_at: What was looked at.
        not_looked_at: What could not be looked at, and what it needs.
    """

    looked_at: tuple[str, ...] = ()
    not_looked_at: tuple[str, ...] = ()

    def lines(self) -> tuple[Line, ...]:
        """Return what people read: the finding first, then what it stands on, then what to do."""
        blocks = [
            [Line(self.text, style=self._style())],
            [Line(each, indent=2) for each in self.evidence],
            [*self._doubts(), *self._cures(), *self._beside()],
            [Line(each, indent=2) for each in self.disturbed],
            _enumerated("Looked at", self.looked_at, ", ") + _enumerated("Not looked at", self.not_looked_at, ", "),
        ]
        lines: list[Line] = []
        for block in filter(None, blocks):
            lines += [Line(), *block] if lines else block
        return tuple(lines)

    def _style(self) -> str:
        return "bold green" if self.code == HEALTHY else _STYLES[self.certainty]

    def _doubts(self) -> list[Line]:
        no_idea = self.code == CANNOT_TELL
        also = _enumerated("It is one of" if no_idea else "It could also be", _titles(self.others), "; ")
        return also + _listed("This would tell" if no_idea else "To be sure", self.needs)

    def _cures(self) -> list[Line]:
        return _listed("To mend it, one of these" if len(self.fix) > 1 else "To mend it", self.fix)

    def _beside(self) -> list[Line]:
        return _enumerated("Also wrong", _titles(self.in_any_case), "; ")


def conclude(case: Case, verdict: Verdict) -> Conclusion:
    """Return what is to be shown of a verdict about a case."""
    needs = {each.witness: each.needs for each in case.skipped}
    program = case.get(Program)
    if program is not None and program.refused is not None:
        needs["program"] = f"to be its own user, or root: {program.refused}"
    seen = {each.witness for each in case.evidence} - needs.keys()
    looked_at = dict.fromkeys(words for witness, words in _WITNESSES.items() if witness in seen)
    not_looked_at = dict.fromkeys(
        f"{words} (needs {needs[witness]})" for witness, words in _WITNESSES.items() if witness in needs
    )
    return Conclusion(**attrs.asdict(verdict, recurse=False), looked_at=(*looked_at,), not_looked_at=(*not_looked_at,))


def _titles(codes: Sequence[str]) -> tuple[str, ...]:
    """Return what people call the causes."""
    return tuple(CAUSES[code].title if code in CAUSES else code for code in codes)


def _enumerated(label: str, items: Sequence[str], between: str) -> list[Line]:
    return [Line(f"{label}: {between.join(items)}.", indent=2)] if items else []


def _listed(label: str, items: Sequence[str]) -> list[Line]:
    """Return items on lines of their own. One that begins with a small letter is a command, and is never broken."""
    lines = [Line(each, indent=4, whole=not each[:1].isupper()) for each in items]
    return [Line(f"{label}:", indent=2), *lines] if lines else []
