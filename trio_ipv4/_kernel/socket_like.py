"""What this room needs of a socket."""

from __future__ import annotations

from typing import Any, Protocol, overload


class SocketLike(Protocol):
    """What this room needs of a socket: trio's and the standard library's both have it."""

    def fileno(self) -> int: ...
    @overload
    def getsockopt(self, level: int, optname: int, /) -> int: ...
    @overload
    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...
    def setsockopt(self, level: int, optname: int, value: int | bytes, /) -> None: ...


class NamedSocket(SocketLike, Protocol):
    """The same, with its type and its addresses."""

    @property
    def type(self) -> int: ...
    def getsockname(self) -> Any: ...
    def getpeername(self) -> Any: ...
