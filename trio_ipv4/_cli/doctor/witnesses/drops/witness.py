"""What the drop witness saw, as evidence."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trio_ipv4._cli.doctor.evidence import Drop, Drops
from trio_ipv4._cli.doctor.witnesses.drops.btf import read_types
from trio_ipv4._cli.doctor.witnesses.drops.program import COUNT, KEY_SIZE, NAMES, TRACEPOINT, Key, assemble
from trio_ipv4._cli.doctor.witnesses.drops.symbols import name_functions
from trio_ipv4._cli.doctor.witnesses.drops.syscalls import attach, create_map, load_program, read_map

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from ipaddress import IPv4Address

    from trio_ipv4._cli.doctor.evidence import Phase

_ENTRIES: Final = 4096
"""Of the map: more kinds of drops are not told apart."""
_PREFIXES: Final = ("SKB_DROP_REASON_", "SKB_")
_NO_DROPS: Final = {"NOT_DROPPED_YET", "CONSUMED", "QUEUE_PURGE", "SOCKET_CLOSE"}
"""Reasons of packets that were read, or that a socket still had when it was closed."""
_NO_PLACES: Final = {
    # Where a socket is closed with packets in its queue.
    *("udp_destruct_common", "inet_sock_destruct"),
    # Where the kernel answers what its input route would do, with a packet of its own (net/ipv4/route.c).
    "inet_rtm_getroute",
    # Where the further fragments of a datagram go, whose first one was counted.
    *("skb_release_data", "kfree_skb_list_reason"),
}
"""They say NOT_SPECIFIED."""


class DropsWitness:
    """Counts what the kernel throws away of a group's datagrams, in this thread's network namespace.

    Args:
        counts: The map's descriptor.
        reasons: The names of the reasons.
    """

    def __init__(self, counts: int, reasons: Mapping[int, str]) -> None:
        self._counts: Final = counts
        self._reasons: Final = reasons
        self._places: Final[dict[int, str]] = {}
        self._before: dict[Key, int] = {}

    def take(self, phase: Phase) -> Drops:
        """Return what was thrown away since the last time."""
        counts = {Key.parse(key): COUNT.unpack(count)[0] for key, count in read_map(self._counts, KEY_SIZE, COUNT.size)}
        grown = {key: count - self._before.get(key, 0) for key, count in counts.items()}
        self._before = counts
        self._name({key.place for key, number in grown.items() if number})
        drops = [self._describe(key, number) for key, number in grown.items() if number]
        return Drops(tuple(drop for drop in drops if _is_drop(drop)), phase=phase)

    def _name(self, places: set[int]) -> None:
        # A third of a second: only where there is something new.
        if unknown := places - self._places.keys():
            self._places.update(name_functions(unknown))

    def _describe(self, key: Key, number: int) -> Drop:
        return Drop(
            self._reasons.get(key.reason, str(key.reason)),
            self._places[key.place],
            key.ifindex or None,
            key.source,
            number,
            port=key.port or None,
            here=key.here or None,
        )


@contextlib.contextmanager
def open_drops(group: IPv4Address) -> Iterator[DropsWitness]:
    """Watch what the kernel throws away of a group's datagrams.

    Raises:
        PermissionError: CAP_BPF or CAP_PERFMON is missing.
        UnsupportedError: This kernel doesn't describe its types, or tells no reasons; or the architecture is another.
        OSError: The kernel refuses: under lockdown in confidentiality mode, in a sandbox.
    """
    network = Path("/proc/thread-self/ns/net").stat().st_ino
    with contextlib.ExitStack() as stack:
        counts = create_map(KEY_SIZE, COUNT.size, _ENTRIES)
        stack.callback(os.close, counts)
        types = read_types(NAMES)
        program = load_program(assemble(types, counts, group, network), "doctor")
        stack.callback(os.close, program)
        stack.callback(os.close, attach(program, TRACEPOINT))
        yield DropsWitness(counts, _name_reasons(types.enumerators("skb_drop_reason")))


def _name_reasons(enumerators: Mapping[int, str]) -> dict[int, str]:
    named = {}
    for value, name in enumerators.items():
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
        named[value] = name.removeprefix(prefix)
    return named


def _is_drop(drop: Drop) -> bool:
    return drop.reason not in _NO_DROPS and drop.place not in _NO_PLACES
