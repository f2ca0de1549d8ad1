"""One shape for hosts: those of the lab, which are the kernel's, and those that are simulated."""

from __future__ import annotations

import inspect
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, TypeVar, TypeVarTuple, Unpack

import trio

from trio_ipv4._kernel.system import CURRENT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from trio_ipv4 import Interface
    from trio_ipv4._kernel.system import System
    from trio_ipv4._values.fields import AddressLike

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MAX_NAME: Final = 15
"""IFNAMSIZ less the zero at the end, linux/if.h."""


class Link(Protocol):
    """A link of the lab, or of a simulated network: interfaces on it hear each other."""

    @property
    def name(self) -> str:
        """Its name."""
        raise NotImplementedError


class Host(Protocol):
    """A host of the lab, or of a simulated network. A test that is written for this runs on both.

    Interfaces are named by their names, as in `ip link`. An address with its prefix length is a string such as
    ``"198.18.0.7/24"``, or an `IPv4Interface`. None of the methods but `run` is a checkpoint.
    """

    @property
    def name(self) -> str:
        """Its name."""
        raise NotImplementedError

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """The interfaces as they are now, loopback aside, in the order in which they were attached."""
        raise NotImplementedError

    @property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """The addresses of these interfaces, in their order."""
        raise NotImplementedError

    async def run(
        self,
        function: Callable[[Unpack[Ts]], Awaitable[T]],
        /,
        *args: *Ts,
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> T:
        """Run an asynchronous function on the host, and return what it returns.

            await network["a"].run(main)
            interfaces = await nursery.start(network["a"].run, partial(serve_group, handler, "239.1.2.3", 5000))

        An unmodified program will do. Whatever it, and the tasks and worker threads that it starts, opens, lists,
        watches, follows or serves with this library belongs to the host. The context says so (`contextvars`), and tasks
        inherit it. A connection that is opened here stays the host's, wherever it is used. It is a checkpoint if the
        function is one.

        Args:
            function: An asynchronous function.
            *args: Its positional arguments.
            task_status: For `nursery.start`, which the function then gets.

        Raises:
            trio.ClosedResourceError: In the function, when it opens or lists something: the network has ended.
        """
        raise NotImplementedError

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a synchronous function on the host: the connections that it opens belong to the host.

        Raises:
            TypeError: `function` is a coroutine function, which would run later, elsewhere: see `run`.
            trio.ClosedResourceError: The network has ended.
        """
        raise NotImplementedError

    def attach(
        self,
        link: Any,
        name: str,
        address: str | None = None,
        *,
        index: int | None = None,
        mtu: int = 1500,
    ) -> Interface:
        """Plug an interface into a link, and set it up.

        Args:
            link: A `Link` of the same network, or its number in `links`.
            name: The interface's name: 1 to 15 octets.
            address: Its address with the prefix length; by default none.
            index: Its index; by default the next one.
            mtu: In octets.

        Raises:
            ValueError: The name or the index is in use, or is none.
        """
        raise NotImplementedError

    def detach(self, name: str) -> None:
        """Unplug an interface: it is gone, and so are its addresses and the memberships on it.

        Raises:
            KeyError: There is no such interface.
        """

    def set_up(self, name: str, up: bool = True) -> None:  # noqa: FBT002  # As in the contract.
        """Set an interface up, or down. Its addresses and memberships stay. KeyError: as for `detach`."""

    def set_mtu(self, name: str, mtu: int) -> None:
        """Set an interface's MTU, in octets. With less than 68 it has no IPv4. KeyError: as for `detach`."""

    def rename(self, name: str, new_name: str) -> None:
        """Give an interface another name. KeyError: as for `detach`. ValueError: the new name is in use."""

    def add_address(self, name: str, address: str) -> None:
        """Give an interface an address more, with its prefix. KeyError: as for `detach`. ValueError: it has it."""

    def remove_address(self, name: str, address: str) -> None:
        """Take an address of an interface away. KeyError: there is no such interface, or it has no such address."""

    def add_route(self, destination: str, *, via: AddressLike | None = None, interface: str | None = None) -> None:
        """Add a route to a network such as ``"224.0.0.0/4"``, through a gateway, an interface, or both.

        Raises:
            KeyError: There is no such interface.
            ValueError: Neither is given, or the gateway is in no network of an interface that is up.
        """

    def set_sysctl(self, name: str, value: int | str) -> None:
        """Set a sysctl, such as ``"net.ipv4.igmp_max_memberships"``. KeyError: there is none of that name here."""

    def groups(self) -> Mapping[tuple[int, IPv4Address], int]:
        """Return how many users each group has, by interface index and group, as the host's kernel counts them.

        The kernel itself is a user of 224.0.0.1 on every interface that is up.
        """
        raise NotImplementedError


class Network(Protocol):
    """A lab, or a simulated network: hosts by their names, on links."""

    def __getitem__(self, name: str, /) -> Host: ...

    @property
    def links(self) -> Sequence[Link]:
        """The links, in the order in which they were made."""
        raise NotImplementedError


def find_link(link: object, links: Sequence[T]) -> T:
    """Find a link of a network, given itself or its number."""
    if isinstance(link, int) and not isinstance(link, bool) and 0 <= link < len(links):
        return links[link]
    for each in links:
        if each is link:
            return each
    raise TypeError(f"link must be a link of this network, or its number, 0 to {len(links) - 1}, got {link!r}")


def to_own_address(address: object) -> IPv4Interface:
    """Check the address of an interface: it comes with its prefix length."""
    if isinstance(address, IPv4Interface):
        return address
    try:
        if isinstance(address, str) and "/" in address:
            return IPv4Interface(address)
    except ValueError:
        pass
    raise ValueError(f"address must be one with its prefix length, such as '198.18.0.7/24', got {address!r}")


class Named(Protocol):
    """An interface: a value, or a simulated one."""

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def index(self) -> int:
        raise NotImplementedError


NamedT = TypeVar("NamedT", bound=Named)


def require_synchronous(function: object) -> None:
    """Raise a `TypeError` for a coroutine function, which would run later, and elsewhere."""
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"function must be synchronous, got the coroutine function {function!r}: see `run`")


def find_interface(name: str, present: Iterable[NamedT], host: str) -> NamedT:
    """Find an interface of a host by its name, or raise a `KeyError`."""
    names = []
    for each in present:
        if each.name == name:
            return each
        names.append(each.name)
    raise KeyError(f"{host} has no interface {name!r}, only {', '.join(names)}")


def check_free(name: str, index: int | None, present: Iterable[Named], host: str) -> None:
    """Raise a `ValueError` unless an interface may have a name, and an index, beside those that a host has."""
    if not 1 <= len(name.encode()) <= _MAX_NAME or "/" in name or any(map(str.isspace, name)):
        raise ValueError(f"an interface's name must have 1 to 15 octets, without '/' or spaces, got {name!r}")
    for each in present:
        if each.name == name:
            raise ValueError(f"{host} has an interface {name!r} already")
        if each.index == index:
            raise ValueError(f"{host} has an interface with index {index} already: {each.name}")


async def run_on(
    system: System,
    function: Callable[..., Awaitable[T]],
    args: tuple[Any, ...],
    task_status: trio.TaskStatus[Any],
) -> T:
    """Run an asynchronous function on a system."""
    token = CURRENT.set(system)
    try:
        if task_status is trio.TASK_STATUS_IGNORED:
            return await function(*args)
        return await function(*args, task_status=task_status)
    finally:
        CURRENT.reset(token)
