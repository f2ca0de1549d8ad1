"""The kernel's structures, as bytes. Each function takes the platform, and addresses as 4 octets in network order."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from trio_ipv4._errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trio_ipv4._abi.platform import Platform

# The same numbers on every platform (POSIX sys/socket.h implementations).
AF_INET: Final = 2
SOCK_DGRAM: Final = 2
SOCK_RAW: Final = 3
IPPROTO_ICMP: Final = 1
SOCKADDR_IN_SIZE: Final = 16
SOCKADDR_STORAGE_SIZE: Final = 128
IN_PKTINFO_SIZE: Final = 12
SOCK_FILTER_SIZE: Final = 8
TIMESPEC_SIZE: Final = 16
SCM_TIMESTAMPING_SIZE: Final = 48
EXTENDED_ERROR_SIZE: Final = 32
ANY: Final = b"\0\0\0\0"

ControlRecord: TypeAlias = "tuple[int, int, int, bytes]"
"""The offset of a control message's data, its level, its type, and its data."""


def sockaddr_in(platform: Platform, address: bytes, port: int) -> bytes:
    """Lay out `struct sockaddr_in` (linux/in.h): 16 octets."""
    if platform.has_sa_len:
        return struct.pack(">BBH4s8x", SOCKADDR_IN_SIZE, AF_INET, port, address)
    return struct.pack(platform.prefix + "H", AF_INET) + struct.pack(">H4s8x", port, address)


def parse_sockaddr_in(data: bytes) -> tuple[bytes, int]:
    """Return the address and the port of a `struct sockaddr_in`."""
    port, address = struct.unpack_from(">2xH4s", data)
    return address, port


def sockaddr_storage(platform: Platform, address: bytes) -> bytes:
    """Lay out `struct sockaddr_storage` (linux/socket.h) with an IPv4 address and no port: 128 octets."""
    return sockaddr_in(platform, address, 0).ljust(SOCKADDR_STORAGE_SIZE, b"\0")


def ip_mreqn(platform: Platform, group: bytes, address: bytes, ifindex: int) -> bytes:
    """Lay out `struct ip_mreqn` (linux/in.h): group, local address, interface index: 12 octets."""
    return struct.pack(platform.prefix + "4s4si", group, address, ifindex)


def group_req(platform: Platform, ifindex: int, group: bytes) -> bytes:
    """Lay out `struct group_req` (RFC 3678 section 5.1.1; linux/in.h)."""
    return _index(platform, ifindex) + sockaddr_storage(platform, group)


def group_source_req(platform: Platform, ifindex: int, group: bytes, source: bytes) -> bytes:
    """Lay out `struct group_source_req` (RFC 3678 section 5.1.2; linux/in.h)."""
    return group_req(platform, ifindex, group) + sockaddr_storage(platform, source)


def group_filter(platform: Platform, ifindex: int, group: bytes, mode: int, sources: Sequence[bytes]) -> bytes:
    """Lay out `struct group_filter` (RFC 3678 section 5.2; linux/in.h)."""
    counts = struct.pack(platform.prefix + "II", mode, len(sources))
    # group_filter.gf_slist follows gf_numsrc at once: 128 octets a source, aligned already.
    return group_req(platform, ifindex, group) + counts + b"".join(sockaddr_storage(platform, s) for s in sources)


def group_filter_size(platform: Platform, capacity: int) -> int:
    """Return the size of a `struct group_filter` with room for `capacity` sources, in octets."""
    return len(group_req(platform, 0, ANY)) + 8 + SOCKADDR_STORAGE_SIZE * capacity


def parse_group_filter(platform: Platform, data: bytes) -> tuple[int, int, tuple[bytes, ...]]:
    """Return mode, number of sources in all, and those that were there was room for, of a `struct group_filter`."""
    start = group_filter_size(platform, 0)
    if len(data) < start:
        raise ParseError(f"a group_filter needs {start} octets, got {len(data)}", offset=len(data))
    mode, total = struct.unpack_from(platform.prefix + "II", data, start - 8)
    room = (len(data) - start) // SOCKADDR_STORAGE_SIZE
    offsets = range(start, start + min(total, room) * SOCKADDR_STORAGE_SIZE, SOCKADDR_STORAGE_SIZE)
    return mode, total, tuple(data[offset + 4 : offset + 8] for offset in offsets)


def ip_msfilter(platform: Platform, group: bytes, mode: int, capacity: int) -> bytes:
    """Lay out `struct ip_msfilter` (linux/in.h) with no interface address and room for `capacity` sources."""
    return struct.pack(platform.prefix + "4s4sII", group, ANY, mode, capacity) + bytes(4 * capacity)


def parse_ip_msfilter(platform: Platform, data: bytes) -> tuple[int, int, tuple[bytes, ...]]:
    """Return mode, number of sources in all, and those that there was room for, of a `struct ip_msfilter`."""
    if len(data) < 16:
        raise ParseError(f"an ip_msfilter needs 16 octets, got {len(data)}", offset=len(data))
    mode, total = struct.unpack_from(platform.prefix + "8xII", data)
    room = min(total, (len(data) - 16) // 4)
    return mode, total, struct.unpack_from("4s" * room, data, 16)


def in_pktinfo(platform: Platform, ifindex: int, spec_dst: bytes, destination: bytes) -> bytes:
    """Lay out `struct in_pktinfo` (linux/in.h): interface index, local address, header's destination: 12 octets."""
    return struct.pack(platform.prefix + "i4s4s", ifindex, spec_dst, destination)


def parse_in_pktinfo(platform: Platform, data: bytes) -> tuple[int, bytes, bytes]:
    """Return interface index, local address and header's destination of a `struct in_pktinfo` of 12 octets."""
    ifindex, spec_dst, destination = struct.unpack(platform.prefix + "i4s4s", data)
    return ifindex, spec_dst, destination


class ExtendedError(NamedTuple):
    """A `struct sock_extended_err` with the `struct sockaddr_in` behind it (linux/errqueue.h; ip(7): IP_RECVERR)."""

    errno: int
    origin: int
    type: int
    code: int
    info: int
    data: int
    """The number of a transmit timestamp; of an ICMP error, offset and validity of its extensions."""
    offender: bytes
    """The address of the host that told of the error; 0.0.0.0 if no host did."""

    def octets(self, platform: Platform) -> bytes:
        """Lay it out: 32 octets."""
        fixed = struct.pack(platform.prefix + "IBBBxII", *self[:6])
        return fixed + (bytes(SOCKADDR_IN_SIZE) if self.offender == ANY else sockaddr_in(platform, self.offender, 0))

    @classmethod
    def parse(cls, platform: Platform, data: bytes) -> ExtendedError:
        """Read one of at least 32 octets."""
        offender, _ = parse_sockaddr_in(data[16:])
        errno, origin, kind, code, info, number = struct.unpack_from(platform.prefix + "IBBBxII", data)
        return cls(errno, origin, kind, code, info, number, offender)


def parse_rfc4884(platform: Platform, data: int) -> tuple[int, bool]:
    """Read `struct sock_ee_data_rfc4884` (linux/errqueue.h): where extensions begin, 0 for none, and their validity."""
    length, flags = struct.unpack(platform.prefix + "HBx", struct.pack(platform.prefix + "I", data))
    return length, not flags & 1  # SO_EE_RFC4884_FLAG_INVALID


def parse_timespec(platform: Platform, data: bytes, offset: int = 0) -> int:
    """Return the nanoseconds of a `struct timespec` of two 64-bit numbers; `offset` is that for a `ParseError`."""
    seconds, nanoseconds = struct.unpack(platform.prefix + "qq", data)
    if not 0 <= nanoseconds < 10**9:
        raise ParseError(f"nanoseconds must be from 0 to 999999999, got {nanoseconds}", offset=offset)
    return int(seconds) * 10**9 + int(nanoseconds)


def scm_timestamping(platform: Platform, software_ns: int, hardware_ns: int) -> bytes:
    """Lay out `struct scm_timestamping` (linux/errqueue.h): a stamp by software, an unused one, one by hardware."""
    numbers = *divmod(software_ns, 10**9), 0, 0, *divmod(hardware_ns, 10**9)
    return struct.pack(platform.prefix + "6q", *numbers)


def parse_scm_timestamping(platform: Platform, data: bytes, offset: int = 0) -> tuple[int, int]:
    """Return the stamps by software and by hardware of 48 octets, in nanoseconds since the epoch; 0 for none."""
    software, _, hardware = (data[at : at + TIMESPEC_SIZE] for at in range(0, len(data), TIMESPEC_SIZE))
    return parse_timespec(platform, software, offset), parse_timespec(platform, hardware, offset)


def cmsg_header_size(platform: Platform) -> int:
    """Return the size of `struct cmsghdr`, padded so that data may follow: `CMSG_LEN(0)`."""
    return _align(platform, platform.cmsg_length_size + 8)


def cmsg_space(platform: Platform, length: int) -> int:
    """Return the octets that a control message with `length` octets of data takes: `CMSG_SPACE(length)`."""
    return cmsg_header_size(platform) + _align(platform, length)


def cmsg(platform: Platform, level: int, kind: int, data: bytes) -> bytes:
    """Lay out one control message: header, data, padding."""
    start = cmsg_header_size(platform)
    header = struct.pack(_cmsghdr(platform), start + len(data), level, kind)
    return (header.ljust(start, b"\0") + data).ljust(cmsg_space(platform, len(data)), b"\0")


def iterate_cmsgs(platform: Platform, data: bytes) -> Iterator[ControlRecord]:
    """Take control messages apart. A tail that is shorter than a header is ignored, as CMSG_NXTHDR does.

    Raises:
        ParseError: A length is less than its header, or reaches past the end.
    """
    start = cmsg_header_size(platform)
    offset = 0
    while len(data) - offset >= start:
        length, level, kind = struct.unpack_from(_cmsghdr(platform), data, offset)
        if not start <= length <= len(data) - offset:
            allowed = f"from {start} to {len(data) - offset}"
            raise ParseError(f"the length of a control message must be {allowed}, got {length}", offset=offset)
        yield offset + start, level, kind, data[offset + start : offset + length]
        offset += _align(platform, length)


def sock_fprog(platform: Platform, count: int, address: int) -> bytes:
    """Lay out `struct sock_fprog` (linux/filter.h): number of instructions, and where they are in memory."""
    return struct.pack(platform.prefix + ("H6xQ" if platform.word == 8 else "H2xI"), count, address)


def ifreq_size(platform: Platform) -> int:
    """Return the size of `struct ifreq` (linux/if.h): a name of 16 octets, and a union that holds pointers."""
    return 40 if platform.word == 8 else 32


def mmsghdr_format(platform: Platform) -> str:
    """Return the `struct` format of `struct mmsghdr` (linux/socket.h).

    Its fields: name, namelen, iov, iovlen, control, controllen, flags, and the length that the kernel writes.
    """
    if platform.word == 8:
        return platform.prefix + "QI4xQQQQi4xI4x"
    return platform.prefix + "IIIIIIiI"


def mmsghdr_result_format(platform: Platform) -> str:
    """Return the `struct` format of the fields that the kernel writes: controllen, flags, and the length."""
    return platform.prefix + ("40xQi4xI4x" if platform.word == 8 else "20xIiI")


def iovec_format(platform: Platform) -> str:
    """Return the `struct` format of `struct iovec` (linux/uio.h): base and length."""
    return platform.prefix + ("QQ" if platform.word == 8 else "II")


def _index(platform: Platform, ifindex: int) -> bytes:
    # sockaddr_storage is aligned like a pointer, unless the structure is packed at 4 octets.
    padding = "4x" if platform.word == 8 and not platform.packed_group_req else ""
    return struct.pack(platform.prefix + "I" + padding, ifindex)


def _cmsghdr(platform: Platform) -> str:
    return platform.prefix + ("Qii" if platform.cmsg_length_size == 8 else "Iii")


def _align(platform: Platform, length: int) -> int:
    return -(-length // platform.cmsg_alignment) * platform.cmsg_alignment
