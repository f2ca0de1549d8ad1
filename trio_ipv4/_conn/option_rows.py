"""An option that is a plain number or truth value is a row: one line in a class of connections, and one in `_abi`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self, final, overload

from trio_ipv4._kernel import options
from trio_ipv4._values.fields import to_bool, to_integer

if TYPE_CHECKING:
    from trio_ipv4._kernel.system import Socket


class HasSocket(Protocol):
    """A connection, as a row sees it."""

    @property
    def _usable(self) -> Socket: ...


@final
class IntegerOption:
    """A property that is an integer option of the kernel.

    Args:
        option: Its name in the kernel's headers.
        lowest: The lowest value. A lower one is a `ValueError`, and so on.
        highest: The highest value.
        doc: The property's docstring.
    """

    def __init__(self, option: str, lowest: int, highest: int, doc: str) -> None:
        self._option = option
        self._range = lowest, highest
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, conn: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self, conn: HasSocket, owner: type | None = None, /) -> int: ...
    def __get__(self, conn: Any, owner: type | None = None, /) -> Self | int:
        return self if conn is None else options.get_integer(conn._usable, self._option)

    def __set__(self, conn: HasSocket, value: int, /) -> None:
        options.set_integer(conn._usable, self._option, to_integer(value, self._name, *self._range))


@final
class BoolOption:
    """A property that is an option of the kernel, on or off. Arguments as for `IntegerOption`."""

    def __init__(self, option: str, doc: str) -> None:
        self._option = option
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, conn: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self, conn: HasSocket, owner: type | None = None, /) -> bool: ...
    def __get__(self, conn: Any, owner: type | None = None, /) -> Self | bool:
        return self if conn is None else bool(options.get_integer(conn._usable, self._option))

    def __set__(self, conn: HasSocket, value: bool, /) -> None:
        options.set_integer(conn._usable, self._option, to_bool(value, self._name))
