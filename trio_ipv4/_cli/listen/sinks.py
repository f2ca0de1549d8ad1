"""What is done with each datagram beside counting it: it is printed, passed on, or written to a capture."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Literal, TypeAlias

from trio_ipv4._cli.listen.rebuild import rebuild
from trio_ipv4._cli.listen.records import DatagramShown

if TYPE_CHECKING:
    from trio_ipv4 import ControlMessage
    from trio_ipv4._cli.capture import CaptureWriter
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
    """Write the payload to standard output, at once.

    Raises:
        BrokenPipeError: Nobody reads any more. What is written from now on goes nowhere.
    """
    try:
        sys.stdout.buffer.write(payload)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # As Python's documentation advises (library/signal, "Note on SIGPIPE"); else the exit would fail to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def capturing(writer: CaptureWriter) -> Sink:
    """Return a sink that writes packets to a capture."""

    def capture(origin: Origin, payload: bytes, control: ControlMessage) -> None:
        source, destination = (origin.source, origin.source_port), (origin.group, origin.port)
        packet = rebuild(source, destination, control.ttl or 0, control.tos or 0, payload)
        writer.write(control.timestamp_ns or 0, packet)

    return capture
