"""An output of the command line that keeps the records."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trio_ipv4._cli.output import Record, Redraw, Row


class Kept:
    """An output that keeps the records, in the order in which they were shown."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def show(self, record: Record) -> None:
        self.records.append(record)

    def table(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.show(row)

    @contextlib.contextmanager
    def live(self) -> Iterator[Redraw]:
        yield self.table
