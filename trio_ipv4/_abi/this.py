"""The platform that this interpreter runs on. Nothing else in the library proper reads `sys.platform`."""

from __future__ import annotations

import struct
import sys
from typing import Final

from trio_ipv4._abi.darwin import darwin
from trio_ipv4._abi.linux import linux
from trio_ipv4._abi.platform import Platform

IS_FREE_THREADED: Final = "free-threading" in sys.version
"""Whether this Python was built to run threads in parallel.

Python's documentation names this way to ask (https://docs.python.org/3/howto/free-threading-python.html).
"""


def this_platform() -> Platform:
    """Return the platform that this interpreter runs on."""
    return _THIS


def _this_platform() -> Platform:
    name: str = sys.platform  # A type checker would take a comparison with sys.platform itself as known.
    if name == "linux":
        return linux(word=8 if struct.calcsize("P") == 8 else 4, byte_order=sys.byteorder)
    if name == "darwin":
        return darwin()
    return Platform(name=name, byte_order=sys.byteorder)


_THIS: Final = _this_platform()
