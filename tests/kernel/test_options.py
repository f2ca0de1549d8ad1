from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

import pytest

from support.systems import having
from trio_ipv4 import UnsupportedError
from trio_ipv4._abi.platform import Layout, Option
from trio_ipv4._abi.this import this_platform
from trio_ipv4._kernel import options
from trio_ipv4._kernel.native import NativeSystem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ipv4._abi.platform import Platform
    from trio_ipv4._kernel.system import Socket


def udp_socket(platform: Platform) -> Socket:
    return NativeSystem(platform).socket(socket.AF_INET, socket.SOCK_DGRAM, 0)


@pytest.fixture
def udp() -> Iterator[Socket]:
    with contextlib.closing(udp_socket(this_platform())) as a_socket:
        yield a_socket


def test_an_option_of_one_octet_is_set_and_got() -> None:
    # As on Darwin; Linux takes both widths for this one.
    with contextlib.closing(udp_socket(having(IP_MULTICAST_TTL=Option(0, 33, Layout.OCTET)))) as udp:
        for value in (0, 7, 255):
            options.set_integer(udp, "IP_MULTICAST_TTL", value)
            assert options.get_integer(udp, "IP_MULTICAST_TTL") == udp.handle.getsockopt(0, 33) == value


def test_a_refusal_names_option_and_value() -> None:
    with contextlib.closing(udp_socket(having(IP_NOTHING=Option(0, 9999)))) as udp:
        with pytest.raises(OSError, match=r"can't set IP_NOTHING to 1: Protocol not available") as caught:
            options.set_integer(udp, "IP_NOTHING", True)
        assert caught.value.errno == errno.ENOPROTOOPT
        with pytest.raises(OSError, match=r"can't get IP_NOTHING: .*this kind of socket has no such option"):
            options.get_integer(udp, "IP_NOTHING")


def test_an_option_without_privilege_is_a_permission_error(udp: Socket) -> None:
    class Refusing:
        def __getattr__(self, name: str) -> object:
            return getattr(udp, name)

        def setsockopt(self, *_: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    with pytest.raises(PermissionError, match="CAP_NET_ADMIN or CAP_NET_RAW"):
        options.set_integer(Refusing(), "IP_TTL", 1)  # type: ignore[arg-type]


def test_an_option_that_the_platform_lacks(udp: Socket) -> None:
    assert not options.has_option(udp, "IPV6_V6ONLY")
    with pytest.raises(UnsupportedError, match=f"IPV6_V6ONLY is not available on {this_platform().name}"):
        options.get_integer(udp, "IPV6_V6ONLY")


def test_a_refused_multicast_interface_names_it(udp: Socket) -> None:
    with pytest.raises(OSError, match=r"can't set IP_MULTICAST_IF to the interface with index 99: .*interfaces\(\)"):
        options.set_multicast_interface(udp, 99, bytes(4))
    assert options.get_multicast_interface_address(udp) == bytes(4)
    options.set_multicast_interface(udp, 1, socket.inet_aton("127.0.0.1"))
    assert options.get_multicast_interface_address(udp) == socket.inet_aton("127.0.0.1")
