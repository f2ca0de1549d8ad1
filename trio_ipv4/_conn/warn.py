"""Warnings, at the caller's line."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

from trio_ipv4._errors import DeafMembershipWarning, SourceSpecificRangeWarning
from trio_ipv4._values.fields import SSM_RANGE
from trio_ipv4._values.source_filter import FilterMode, SourceFilter

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from trio_ipv4._kernel.system import Socket


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line outside of this package that led here."""
    warnings.warn(message, category, stacklevel=_callers_level())


def warn_of_deafness(socket: Socket, group: IPv4Address, before: SourceFilter | None, sources: SourceFilter) -> None:
    """Warn of a hold that will hear nothing, before anything is changed: a warning may be an error.

    Args:
        socket: The socket.
        group: The group.
        before: The filter of the hold before; `None` for a new one.
        sources: Its filter now.
    """
    turns = before is None or before.mode is FilterMode.INCLUDE
    if turns and sources.mode is FilterMode.EXCLUDE and group in SSM_RANGE:
        message = (
            f"{group} is in the source-specific range {SSM_RANGE}, where routers ignore joins that name no source "
            "(RFC 4607 section 2): pass sources=SourceFilter.include(...)"
        )
        warn(message, SourceSpecificRangeWarning)
    if before is not None:
        return
    bound = socket.getsockname()[0]
    if bound not in ("0.0.0.0", str(group)):
        message = f"this socket is bound to {bound}, so it will hear nothing of {group}: bind it to 0.0.0.0"
        warn(message, DeafMembershipWarning)


def _callers_level() -> int:
    """Return the `stacklevel` at which `warnings.warn`, called by our caller, names the first frame outside of here."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] == "trio_ipv4":
        frame, level = frame.f_back, level + 1
    return level
