"""Take values apart into columns: the Python for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_ipv4._kernel.calls import Columns, Kind


def take_apart(
    values: tuple[Any, ...], kind: Kind, names: Mapping[Any, bytes], request: Callable[[Any], bytes], /
) -> Columns | None:
    """Take values apart, as `Sender.columns` says. Column by column, in half the time of a call for each."""
    if {*map(type, values)} != {kind.type}:
        return None
    payload, peer, control, _ = (slot.__get__ for slot in kind.slots)
    controls = [control(value) for value in values]
    first = controls[0]
    if controls.count(first) == len(controls):
        requests = [request(first)] * len(controls)
    else:
        requests = [request(each) for each in controls]
    return [payload(value) for value in values], [names[peer(value)] for value in values], requests
