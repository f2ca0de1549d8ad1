"""Remarks on what goes wrong. Anybody may send to us, under any address: so each is made once, and not too many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from trio_ipv4._cli.ping.records import Hint

if TYPE_CHECKING:
    from collections.abc import Hashable

    from trio_ipv4._cli.output import Output

_MOST: Final = 8
"""How many remarks are made at most."""


@final
class Remarks:
    """Shows the first few remarks.

    Args:
        output: Where they are shown.
        more: What is said instead of the first that is too many.
    """

    def __init__(self, output: Output, more: str) -> None:
        self._output: Final = output
        self._more: Final = more
        self._told: Final[set[Hashable]] = set()

    def tell(self, words: str, about: Hashable = None) -> None:
        """Show a remark, unless there was one about this, which is by default: with these words."""
        about = words if about is None else about
        if about in self._told or len(self._told) > _MOST:
            return
        self._told.add(about)
        self._output.show(Hint(words if len(self._told) <= _MOST else self._more))
