"""A host of the lab: a network namespace, and the programs that change it."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import time
import types
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, TypeVarTuple, Unpack, final

import trio

from trio_ipv4 import Interface, InterfaceFlags, interfaces
from trio_ipv4._kernel.system import CURRENT
from trio_ipv4._values.fields import to_address, to_integer
from trio_ipv4._values.interface import MAX_IFINDEX
from trio_ipv4.testing._hosts import check_free, find_interface, find_link, require_synchronous, run_on, to_own_address
from trio_ipv4.testing._systems import CalledSystem, HostSystem
from trio_ipv4.testing._tables import igmp_groups

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4.testing._namespaces import Namespace

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PROGRAMS: Final = {"ip": "iproute2", "nsenter": "util-linux"}
"""Which the lab needs, and Debian's packages of them."""
_READY_SECONDS: Final = 10
_PORT_INDEXES: Final = 10_000
"""How many indexes of the switch are kept for later ports of each link."""
_SYSTEM_PATH: Final = "/usr/sbin:/sbin"
"""Where distributions keep `ip`, and where an ordinary user's PATH may not lead."""


@final
class LabHost:
    """A host of a lab: a network namespace. `name` is its name."""

    def __init__(
        self,
        name: str,
        namespace: Namespace,
        ends: Mapping[str, IPv4Interface] = types.MappingProxyType({}),
        links: Sequence[LabLink] = (),
    ) -> None:
        self.name: Final = name
        self._links: Final = links
        self._namespace: Final = namespace
        self._ends: Final = ends
        self._system: Final = HostSystem(namespace)
        self._called: Final = CalledSystem(namespace)

    async def run(
        self,
        function: Callable[[Unpack[Ts]], Awaitable[T]],
        /,
        *args: *Ts,
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> T:
        """Run an asynchronous function on the host, as `Host.run` says.

        The thread stays where it is, so other tasks are not concerned. Sockets that are made without this library, and
        processes, are not moved: see `call` and `command`.
        """
        return await run_on(self._system, function, args, task_status)

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a synchronous function in the host, and return what it returns. For asynchronous ones, see `run`.

        The sockets that it makes, and the processes that it starts, belong to the host. The calling thread itself goes
        there, and is back before this returns or raises; so do not let the function start threads that stay.

        Raises:
            OSError: The kernel refused to enter; or what the function raises.
            RuntimeError: The thread can't go back. Everything in it would be in the wrong network: end the process.
            TypeError: `function` is a coroutine function, which would run after the way back.
            trio.ClosedResourceError: The lab has ended.
        """
        require_synchronous(function)
        token = CURRENT.set(self._called)
        try:
            return self._namespace.call(function, *args, **kwargs)
        finally:
            CURRENT.reset(token)

    def command(self, argv: Sequence[str | os.PathLike[str]]) -> list[str]:
        """Return what runs a command in the host, for `trio.run_process` or `subprocess.run`.

        It is nsenter(1), which needs the privilege that the lab does. It names the host by this process, so it works
        while this process and the lab live, from any thread, whatever the thread's namespace is.

        Raises:
            FileNotFoundError: nsenter(1) is missing.
            TypeError: `argv` is a single string.
            trio.ClosedResourceError: The lab has ended.
        """
        if isinstance(argv, str):
            raise TypeError(f"argv must be a sequence of arguments, got the single string {argv!r}")
        return [find_program("nsenter"), f"--net={self.namespace}", "--", *(os.fspath(each) for each in argv)]

    def ip(self, *arguments: str) -> str:
        """Run `ip` (iproute2) in the host, blocking, and return its output.

        For changes of links and routes: `host.ip("link", "set", "en0", "down")`.

        Raises:
            FileNotFoundError: ip(8) is missing.
            subprocess.CalledProcessError: It failed; the message holds its output.
            trio.ClosedResourceError: The lab has ended.
        """
        return self.call(_run_ip, arguments)

    def attach(
        self, link: Any, name: str, address: str | None = None, *, index: int | None = None, mtu: int = 1500
    ) -> Interface:
        """Plug an interface into a link, one of `lab.links` or its number, and set it up, as `Host.attach` says.

        It is ready when this returns: the port forwards, and the interface runs.

        Raises:
            subprocess.CalledProcessError: `ip` refused.
            TimeoutError: The link was not up after 10 seconds.
        """
        found = find_link(link, self._links)
        own = None if address is None else to_own_address(address)
        check_free(name, index, self.call(interfaces), self.name)
        with_index = "" if index is None else f"index {to_integer(index, 'index', 1, MAX_IFINDEX)}"
        found.plug(f"mtu {mtu} type veth peer name {name} mtu {mtu} {with_index} netns {self.namespace}")
        script = [] if own is None else [f"address add {own} broadcast + dev {name}"]
        self.call(run_script, [*script, f"link set {name} up"])
        wait_until(lambda: self._is_connected(name))
        return self._interface(name)

    def detach(self, name: str) -> None:
        """Unplug an interface, as `Host.detach` says."""
        self._interface(name)
        self.ip("link", "delete", name)

    def set_up(self, name: str, up: bool = True) -> None:  # noqa: FBT002  # As in the contract.
        """Set an interface up, and wait until it runs, or set it down, as `Host.set_up` says."""
        self._interface(name)
        self.ip("link", "set", name, "up" if up else "down")
        if up:
            wait_until(lambda: self._is_connected(name))

    def set_mtu(self, name: str, mtu: int) -> None:
        """Set an interface's MTU, as `Host.set_mtu` says."""
        self._interface(name)
        self.ip("link", "set", name, "mtu", str(mtu))

    def rename(self, name: str, new_name: str) -> None:
        """Give an interface another name, as `Host.rename` says. The kernel lets it be up meanwhile since Linux 6.2."""
        self._interface(name)
        check_free(new_name, None, self.call(interfaces), self.name)
        self.ip("link", "set", name, "name", new_name)

    def add_address(self, name: str, address: str) -> None:
        """Give an interface one address more, as `Host.add_address` says."""
        added = to_own_address(address)
        if added in self._interface(name).addresses:
            raise ValueError(f"{name} has the address {added} already")
        self.ip("address", "add", str(added), "broadcast", "+", "dev", name)

    def remove_address(self, name: str, address: str) -> None:
        """Take an address of an interface away, as `Host.remove_address` says."""
        gone = to_own_address(address)
        if gone not in self._interface(name).addresses:
            raise KeyError(f"{name} has no address {gone}")
        self.ip("address", "delete", str(gone), "dev", name)

    def add_route(self, destination: str, *, via: AddressLike | None = None, interface: str | None = None) -> None:
        """Add a route, as `Host.add_route` says."""
        words = [str(IPv4Network(destination))]
        if via is None and interface is None:
            raise ValueError("a route needs a gateway, via=..., or an interface, interface=...")
        if interface is not None:
            words += ["dev", self._interface(interface).name]
        elif not any(to_address(via, "via") in own.network for each in self.interfaces for own in each.addresses):
            raise ValueError(f"the gateway {via} is in no network of an interface of {self.name} that is up")
        if via is not None:
            words += ["via", str(to_address(via, "via"))]
        self.ip("route", "add", *words)

    def set_sysctl(self, name: str, value: int | str) -> None:
        """Set a sysctl, as `Host.set_sysctl` says. Those that all hosts share, as most of net.core, can't be set."""
        try:
            self.call(Path("/proc/sys", *name.split(".")).write_text, str(value), encoding="ascii")
        except FileNotFoundError:
            raise KeyError(f"this host has no sysctl {name} of its own") from None

    def groups(self) -> Mapping[tuple[int, IPv4Address], int]:
        """Return how many users each group has, as `Host.groups` says (/proc/net/igmp)."""
        return self.call(igmp_groups)

    def _is_connected(self, name: str) -> bool:
        """Tell whether an interface runs, and the switch's port at the other end of its cable forwards."""
        if InterfaceFlags.RUNNING not in self._interface(name).flags:
            return False
        (own,) = json.loads(self.ip("-json", "link", "show", "dev", name))
        if "link_index" not in own:
            return True
        ports = json.loads(self._links[0].switch.ip("-details", "-json", "link", "show", "type", "bridge_slave"))
        states = {each["ifindex"]: each["linkinfo"]["info_slave_data"]["state"] for each in ports if each}
        return bool(states.get(own["link_index"], "forwarding") == "forwarding")

    def _interface(self, name: str) -> Interface:
        return find_interface(name, self.call(interfaces), self.name)

    @property
    def namespace(self) -> str:
        """A path that opens the namespace, for `ip link set ... netns` in another host, or setns(2)."""
        return self._namespace.path

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """The interfaces as they are now, loopback aside: first those of the lab in the links' order, then others."""
        ends = list(self._ends)
        found = (each for each in self.call(interfaces) if not each.is_loopback)
        return tuple(
            sorted(found, key=lambda each: (ends.index(each.name) if each.name in ends else len(ends), each.index))
        )

    @property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """The addresses of these interfaces, in their order."""
        return tuple(address.ip for interface in self.interfaces for address in interface.addresses)

    def __repr__(self) -> str:
        return f"<Host {self.name} {', '.join(str(end.ip) for end in self._ends.values())}>"


@final
class LabLink:
    """A link of a lab: a `Link`. `name` is that of its bridge in `lab.switch`."""

    def __init__(self, switch: LabHost, number: int) -> None:
        self.name: Final = f"br{number}"
        self.switch: Final = switch
        self._number: Final = number
        self._count: Final = itertools.count(1)

    def plug(self, cable: str) -> None:
        """Make a cable, as `ip link add` has it after the name, and plug its near end in."""
        number = next(self._count)
        port = f"{self.name}-{number}"
        # Only beside an index of its own is the far end's obeyed (linux drivers/net/veth.c, `veth_newlink`).
        index = _PORT_INDEXES * (self._number + 1) + number
        add = f"link add {port} index {index} master {self.name} up {cable}"
        self.switch.call(run_script, [add, f"link set {port} type bridge_slave mcast_fast_leave on"])

    def __repr__(self) -> str:
        return f"<Link {self.name}>"


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait, blocking: the kernel tells carriers a little later."""
    deadline = time.monotonic() + _READY_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"the lab's links are not up after {_READY_SECONDS} seconds")


@final
class ProgramError(subprocess.CalledProcessError):
    """A `CalledProcessError` whose message holds the program's output."""

    def __str__(self) -> str:
        return f"{super().__str__()} {str(self.stderr).strip()}"


def run_script(script: Sequence[str]) -> None:
    _run_ip(("-batch", "-"), "\n".join([*script, ""]))


def _run_ip(arguments: Sequence[str], script: str = "") -> str:
    argv = [find_program("ip"), *arguments]
    done = subprocess.run(argv, input=script, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProgramError(done.returncode, argv, done.stdout, done.stderr)
    return done.stdout


def find_program(program: str) -> str:
    found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{_SYSTEM_PATH}")
    if found is None:
        raise FileNotFoundError(errno.ENOENT, f"the program `{program}` is missing (package {PROGRAMS[program]})")
    return found
