"""What is done with each datagram beside counting it: it is printed, passed on, or written to a capture."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

from trio_ipv4._cli.capture import CaptureWriter
from trio_ipv4._cli.listen.rebuild import rebuild
from trio_ipv4._cli.listen.records import DatagramShown
from trio_ipv4._cli.output import write_octets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trio_ipv4 import ControlMessage
    from trio_ipv4._cli.listen.receivers import Origin, Sink
    from trio_ipv4._cli.output import Output

PrintedAs: TypeAlias = Literal["text", "hex"]


def printing(output: Output, printed_as: PrintedAs) -> Sink:
    """Return a sink that shows datagrams."""

    def show(origin: Origin, payload: bytes, control: ControlMessage) -> None:
        output.show(
            DatagramShown(
                origin.group,
                origin.port,
                origin.source,
                origin.source_port,
                origin.interface,
                control.timestamp_ns or 0,
                control.ttl,
                control.tos,
                len(payload),
                payload,
                payload.decode(errors="backslashreplace") if printed_as == "text" else None,
            )
        )

    return show


def pass_on(_origin: Origin, payload: bytes, _control: ControlMessage) -> None:
    """Write the payload to standard output, at once."""
    write_octets(payload)


@final
class Capture:
    """A sink that writes packets to a capture. What it can't write ends the session, which shows its summary first.

    Args:
        path: Where.

    Raises:
        OSError: The file can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        self._writer: Final = CaptureWriter(path)
        self._failure: OSError | None = None
        self.at_failure: Callable[[], None] = lambda: None

    def write(self, origin: Origin, payload: bytes, control: ControlMessage) -> None:
        """Write a datagram, as the packet that it was."""
        source, destination = (origin.source, origin.source_port), (origin.group, origin.port)
        packet = rebuild(source, destination, control.ttl or 0, control.tos or 0, payload)
        self._try(lambda: self._writer.write(control.timestamp_ns or 0, packet))

    def flush(self) -> None:
        """Let other programs see what was written so far."""
        self._try(self._writer.flush)

    def close(self) -> None:
        """Close the file.

        Raises:
            OSError: Something could not be written. It names the file.
        """
        self.flush()
        with contextlib.suppress(OSError):  # Of what is known already.
            self._writer.__exit__()
        if self._failure is not None:
            raise self._failure

    def _try(self, act: Callable[[], None]) -> None:
        if self._failure is not None:
            return
        try:
            act()
        except OSError as error:
            self._failure = OSError(error.errno, f"can't write to {self._path}: {error.strerror}")
            self.at_failure()
