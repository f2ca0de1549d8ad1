"""A case: the question, and what the witnesses said. It can be stored as JSON lines, and read again."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
from cattrs import Converter
from cattrs.errors import BaseValidationError

from trio_ipv4._cli.doctor import evidence
from trio_ipv4._cli.doctor.evidence import Evidence, Phase, Question, Skipped

if TYPE_CHECKING:
    from collections.abc import Iterable

E = TypeVar("E", bound=Evidence)

_KINDS: Final[dict[str, type[Evidence]]] = {
    str(attrs.fields_dict(kind)["witness"].default): kind
    for kind in vars(evidence).values()
    if isinstance(kind, type) and issubclass(kind, Evidence) and kind is not Evidence
}
"""By the witness's name."""


@attrs.frozen
class Case:
    """All that is known."""

    question: Question
    evidence: tuple[Evidence, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def get(self, kind: type[E], phase: Phase = "before") -> E | None:
        """Return what a witness said of a phase. `None`: it did not look."""
        for each in self.evidence:
            if isinstance(each, kind) and each.phase == phase:
                return each
        return None


def read_case(lines: Iterable[str], *, whole: bool = False) -> Case:
    """Read what `doctor --json` wrote.

    Args:
        lines: What it wrote.
        whole: Whether it must go on to the verdict. A part of the evidence may suggest what the whole refutes.

    Raises:
        ValueError: It is something else, or not whole.
    """
    event: object = None
    question: Question | None = None
    found: list[Evidence] = []
    skipped: list[Skipped] = []
    for number, line in enumerate(lines, 1):
        try:
            fields: dict[str, Any] = json.loads(line)
            event = fields["event"]
            if event == "start":
                question = _CONVERTER.structure(fields, Question)
            elif event == "evidence":
                found.append(_CONVERTER.structure(fields, _KINDS[fields["witness"]]))
            elif event == "skipped":
                skipped.append(_CONVERTER.structure(fields, Skipped))
        except (BaseValidationError, KeyError, TypeError, ValueError):
            raise ValueError(f"line {number} is none that doctor --json writes: {line[:60]!r}") from None
    if question is None:
        raise ValueError('there is no line with the event "start", which doctor --json writes first')
    if whole and event != "verdict":
        raise ValueError("it ends before the verdict. The examination was interrupted, or the file was cut")
    return Case(question, tuple(found), tuple(skipped))


def _make_converter() -> Converter:
    converter = Converter()
    for kind in (IPv4Address, IPv4Interface):
        converter.register_structure_hook(kind, lambda value, to: to(value))
    return converter


_CONVERTER: Final = _make_converter()
