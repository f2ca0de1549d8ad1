"""What the witnesses have said so far, and who could not look.

A witness that fails is noted with what it needs, and never ends an examination: the others go on.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, TypeVar, cast, final

from trio_ipv4 import UnsupportedError
from trio_ipv4._cli.doctor.case import Case
from trio_ipv4._cli.doctor.evidence import Evidence, Phase, Question, Skipped
from trio_ipv4._cli.output import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from trio_ipv4._cli.output import Record

E = TypeVar("E", bound=Evidence)

_CAPABILITIES: Final = {
    "wire": "CAP_NET_RAW",
    "own_report": "CAP_NET_RAW",
    "drops": "CAP_BPF and CAP_PERFMON",
    "rules": "CAP_NET_ADMIN",
}
"""What a witness lacks if the kernel does not permit it to look."""


@final
class Journal:
    """Keeps evidence, and shows it as it comes.

    Args:
        question: What was asked.
        show: Shows a record.
    """

    def __init__(self, question: Question, show: Callable[[Record], object]) -> None:
        self.question: Final = question
        self._show: Final = show
        self._unshown: OSError | None = None
        """Why nothing more can be shown: nobody reads, or the disk is full."""
        self._evidence: list[Evidence] = []
        self._skipped: dict[str, Skipped] = {}

    @property
    def case(self) -> Case:
        """All that is known."""
        return Case(self.question, tuple(self._evidence), tuple(self._skipped.values()))

    def show(self, record: Record) -> None:
        """Show a record.

        Raises:
            OSError: It can't be shown. That ends the examination, whatever witness is at work.
        """
        try:
            self._show(record)
        except OSError as error:
            self._unshown = error
            raise

    def ask(self, witness: str, look: Callable[[], Evidence | None]) -> None:
        """Let a witness look that needs no time, and keep what it says."""
        with self.noting(witness):
            self.add(look())

    def add(self, *several: Evidence | None) -> None:
        """Keep what witnesses said."""
        for each in several:
            if each is not None:
                self._evidence.append(each)
                self.show(each)

    def get(self, kind: type[E], phase: Phase = "before") -> E | None:
        """Return what a witness said of a phase. `None`: it did not look."""
        return self.case.get(kind, phase)

    def skip(self, witness: str, needs: str) -> None:
        """Note once that a witness could not look."""
        if witness not in self._skipped:
            self._skipped[witness] = Skipped(witness, needs)
            self.show(self._skipped[witness])

    def noting(self, witness: str) -> AbstractContextManager[None, bool]:
        """Note that a witness could not look, whatever the kernel had against it in the block. Then go on."""
        # Type checkers believe of a generator that it lets all errors out.
        return cast("AbstractContextManager[None, bool]", self._noting(witness))

    @contextlib.contextmanager
    def _noting(self, witness: str) -> Iterator[None]:
        try:
            yield
        except* (OSError, UnsupportedError) as errors:
            if self._unshown is not None:
                raise self._unshown from None
            error = _first(errors)
            if isinstance(error, PermissionError) and witness in _CAPABILITIES:
                self.skip(witness, _CAPABILITIES[witness])
            else:
                self.skip(witness, reason_of(error) if isinstance(error, OSError) else str(error))


def _first(errors: BaseException) -> BaseException:
    """Return the first error of a group, which may hold groups: nurseries make them."""
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors
