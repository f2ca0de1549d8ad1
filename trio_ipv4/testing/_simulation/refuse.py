"""Refusals of a simulated kernel: an errno, as a system call has it; or that something is not simulated."""

from __future__ import annotations

import os
from typing import Final, NoReturn

from trio_ipv4 import UnsupportedError

NAME: Final = "the simulated network"
"""What `UnsupportedError.platform` says."""


def refuse(number: int) -> NoReturn:
    """Refuse as the kernel does."""
    raise OSError(number, os.strerror(number))


def not_simulated(option: str) -> UnsupportedError:
    """Return the error for what is not simulated: it is refused, rather than done in another way than a kernel's."""
    return UnsupportedError(option, NAME)
