"""A simulated host, as a test sees it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, TypeVarTuple, Unpack, final

import trio

from trio_ipv4 import Interface
from trio_ipv4._kernel.system import CURRENT
from trio_ipv4._values.fields import to_address, to_integer
from trio_ipv4._values.interface import MAX_IFINDEX
from trio_ipv4.testing._hosts import check_free, find_interface, find_link, require_synchronous, run_on, to_own_address
from trio_ipv4.testing._simulation.devices import Device

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from trio_ipv4._values.fields import AddressLike
    from trio_ipv4.testing._simulation.devices import Address
    from trio_ipv4.testing._simulation.links import SimulatedLink
    from trio_ipv4.testing._simulation.machine import Machine
    from trio_ipv4.testing._simulation.world import World

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@final
class SimulatedHost:
    """A host of a simulated network: a `Host`. Made by `SimulatedNetwork.host`. `name` is its name."""

    def __init__(self, world: World, machine: Machine, links: Sequence[SimulatedLink]) -> None:
        self.name: Final = machine.name
        self._links: Final = links
        self._world: Final = world
        self._machine: Final = machine

    async def run(
        self,
        function: Callable[[Unpack[Ts]], Awaitable[T]],
        /,
        *args: *Ts,
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> T:
        """Run an asynchronous function on the host, as `Host.run` says."""
        self._require_network()
        return await run_on(self._machine, function, args, task_status)

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a synchronous function on the host, as `Host.call` says."""
        require_synchronous(function)
        self._require_network()
        token = CURRENT.set(self._machine)
        try:
            return function(*args, **kwargs)
        finally:
            CURRENT.reset(token)

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """The interfaces as they are now, loopback aside, in the order in which they were attached."""
        return tuple(_to_interface(each) for each in self._machine.devices.values() if not each.is_loopback)

    @property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """The addresses of these interfaces, in their order."""
        return tuple(address.ip for interface in self.interfaces for address in interface.addresses)

    def attach(
        self, link: Any, name: str, address: str | None = None, *, index: int | None = None, mtu: int = 1500
    ) -> Interface:
        """Plug an interface into a link, and set it up, as `Host.attach` says."""
        found = find_link(link, self._links)
        own = None if address is None else to_own_address(address)
        machine = self._begin()
        self._check_free(name, index)
        number = machine.next_index() if index is None else to_integer(index, "index", 1, MAX_IFINDEX)
        device = Device(machine, number, name, to_integer(mtu, "mtu", 68, 65536), found)
        machine.attach(device)
        if own is not None:
            machine.add_address(device, own)
        machine.set_up(device, up=True)
        return _to_interface(device)

    def detach(self, name: str) -> None:
        """Unplug an interface, as `Host.detach` says."""
        self._begin().detach(self._device(name))

    def set_up(self, name: str, up: bool = True) -> None:  # noqa: FBT002  # As in the contract.
        """Set an interface up, or down, as `Host.set_up` says."""
        self._begin().set_up(self._device(name), up=up)

    def set_mtu(self, name: str, mtu: int) -> None:
        """Set an interface's MTU, as `Host.set_mtu` says."""
        self._begin().set_mtu(self._device(name), to_integer(mtu, "mtu", 1, 65536))

    def rename(self, name: str, new_name: str) -> None:
        """Give an interface another name, as `Host.rename` says."""
        device = self._device(name)
        self._check_free(new_name)
        self._begin().rename(device, new_name)

    def add_address(self, name: str, address: str) -> None:
        """Give an interface one address more, as `Host.add_address` says."""
        device, added = self._device(name), to_own_address(address)
        if any(each.interface == added for each in device.addresses):
            raise ValueError(f"{name} has the address {added} already")
        self._begin().add_address(device, added)

    def remove_address(self, name: str, address: str) -> None:
        """Take an address of an interface away, as `Host.remove_address` says."""
        device = self._device(name)
        self._begin().remove_address(device, self._address(device, to_own_address(address)))

    def add_route(self, destination: str, *, via: AddressLike | None = None, interface: str | None = None) -> None:
        """Add a route, as `Host.add_route` says."""
        network = IPv4Network(destination)
        gateway = None if via is None else to_address(via, "via").packed
        if interface is None and gateway is None:
            raise ValueError("a route needs a gateway, via=..., or an interface, interface=...")
        machine = self._begin()
        if interface is not None:
            device = self._device(interface)
        else:
            assert gateway is not None
            hop = machine.routes.find(gateway)
            if hop is None or hop.gateway is not None:
                raise ValueError(f"the gateway {via} is in no network of an interface of {self.name} that is up")
            device = hop.device
        machine.routes.add(network, device, gateway)
        machine.changed()

    def set_sysctl(self, name: str, value: int | str) -> None:
        """Set a sysctl, as `Host.set_sysctl` says."""
        machine = self._begin()
        known = {*machine.sysctls, *(f"net.ipv4.conf.{each.name}.rp_filter" for each in machine.devices.values())}
        if name not in known:
            raise KeyError(f"the sysctl {name} is not simulated, only {', '.join(sorted(known))}")
        machine.sysctls[name] = str(value)
        machine.changed()

    def groups(self) -> Mapping[tuple[int, IPv4Address], int]:
        """Return how many users each group has, as `Host.groups` says."""
        return {
            (index, IPv4Address(group)): counts.users
            for index, device in self._begin().devices.items()
            for group, counts in device.groups.items()
        }

    def lose_netlink_messages(self) -> None:
        """Let the netlink buffers of this host's programs overflow, as in a storm of changes.

        From now on they are told of no change of interfaces, until they have read what was there before. Then the
        kernel tells them that something was lost (ENOBUFS), and they have to look anew.
        """
        for each in self._begin().netlinks:
            each.lose()

    def __repr__(self) -> str:
        return f"<simulated host {self.name} {', '.join(map(str, self.addresses))}>"

    def _begin(self) -> Machine:
        self._require_network()
        self._world.clock.catch_up()
        return self._machine

    def _require_network(self) -> None:
        if self._world.is_over:
            raise trio.ClosedResourceError("the simulated network has ended")

    def _device(self, name: str) -> Device:
        return find_interface(name, self._machine.devices.values(), self.name)

    def _address(self, device: Device, address: IPv4Interface) -> Address:
        for each in device.addresses:
            if each.interface == address:
                return each
        raise KeyError(f"{device.name} has no address {address}")

    def _check_free(self, name: str, index: int | None = None) -> None:
        check_free(name, index, self._machine.devices.values(), self.name)


def _to_interface(device: Device) -> Interface:
    return Interface(
        device.index,
        device.name,
        device.mtu,
        device.flags,
        [each.interface for each in device.addresses],
        hardware_address=device.hardware_address,
    )
