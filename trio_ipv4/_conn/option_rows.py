"""An option that is plain is a row: one line in a class of connections, and one in `_abi`.

The class is `Conn` for every socket (conn.py), and `SocketOptions` for those of datagrams (options.py).
"""

from __future__ import annotations

import abc
import enum
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeVar, final, overload

from trio_ipv4._conn.warn import warn
from trio_ipv4._errors import CappedBufferWarning
from trio_ipv4._kernel import options
from trio_ipv4._values.fields import to_bool, to_integer

if TYPE_CHECKING:
    from trio_ipv4._kernel.system import Socket

T = TypeVar("T")
EnumT = TypeVar("EnumT", bound=enum.IntEnum)
_MAX_BUFFER: Final = 0x3FFF_FFFF
"""The largest buffer, in octets, whose double is a C int."""


class HasSocket(Protocol):
    """A connection, as a row sees it."""

    @property
    def _usable(self) -> Socket: ...


class Row(abc.ABC, Generic[T]):
    """A property that is an option of the kernel.

    Args:
        option: Its name in the kernel's headers.
        doc: The property's docstring.
    """

    def __init__(self, option: str, doc: str) -> None:
        self._option: Final = option
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, conn: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self, conn: HasSocket, owner: type | None = None, /) -> T: ...
    def __get__(self, conn: Any, owner: type | None = None, /) -> Self | T:
        return self if conn is None else self._read(options.get_integer(conn._usable, self._option))

    def __set__(self, conn: HasSocket, value: T, /) -> None:
        options.set_integer(conn._usable, self._option, self._convert(value))

    @abc.abstractmethod
    def _read(self, number: int) -> T:
        """Return the property's value for the kernel's number."""

    @abc.abstractmethod
    def _convert(self, value: object) -> int:
        """Check a value, and return the kernel's number for it."""


@final
class IntegerOption(Row[int]):
    """An option that is a number.

    Args:
        option: As for `Row`.
        lowest: The lowest value. A lower one is a `ValueError`, and so on.
        highest: The highest value.
        doc: As for `Row`.
    """

    def __init__(self, option: str, lowest: int, highest: int, doc: str) -> None:
        super().__init__(option, doc)
        self._range: Final = lowest, highest

    def _read(self, number: int) -> int:
        return number

    def _convert(self, value: object) -> int:
        return to_integer(value, self._name, *self._range)


@final
class BoolOption(Row[bool]):
    """An option that is on or off."""

    def _read(self, number: int) -> bool:
        return bool(number)

    def _convert(self, value: object) -> int:
        return to_bool(value, self._name)


@final
class EnumOption(Row[EnumT]):
    """An option with a few values, which have names.

    Args:
        option: As for `Row`.
        kind: The values.
        doc: As for `Row`.
    """

    def __init__(self, option: str, kind: type[EnumT], doc: str) -> None:
        super().__init__(option, doc)
        self._kind: Final = kind

    def _read(self, number: int) -> EnumT:
        return self._kind(number)

    def _convert(self, value: object) -> int:
        if not isinstance(value, self._kind):
            raise TypeError(f"{self._name} must be a {self._kind.__name__}, got {value!r}")
        return value


@final
class BufferSize(Row[int]):
    """The size of a buffer, which the kernel may cap.

    Args:
        option: As for `Row`.
        limit: The sysctl that caps it.
        doc: As for `Row`.
    """

    def __init__(self, option: str, limit: str, doc: str) -> None:
        super().__init__(option, doc)
        self._limit: Final = limit

    def __set__(self, conn: HasSocket, value: int, /) -> None:
        size = self._convert(value)
        granted = options.set_buffer_size(conn._usable, self._option, size)
        if granted < size:
            what = self._name.removesuffix("_size").replace("_", " ")
            found = f"asked for a {what} of {size:,} octets, the kernel granted {granted:,}"
            warn(f"{found}: raise sysctl {self._limit}", CappedBufferWarning)

    def _read(self, number: int) -> int:
        return number

    def _convert(self, value: object) -> int:
        return to_integer(value, self._name, 1, _MAX_BUFFER)
