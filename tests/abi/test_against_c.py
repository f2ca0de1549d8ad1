"""Every number, size and offset of the Linux tables against the kernel's and the C library's own headers."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from trio_ipv4._abi import structs
from trio_ipv4._abi.linux import linux
from trio_ipv4._abi.this import this_platform

if TYPE_CHECKING:
    from pathlib import Path

    from trio_ipv4._abi.platform import Platform

INCLUDES = """
#define _GNU_SOURCE
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <linux/in.h>
#include <linux/filter.h>
#include <time.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <linux/icmp.h>
#include <linux/netlink.h>
#include <linux/poll.h>
#include <linux/udp.h>
"""
COMPILER = os.environ.get("CC", "cc")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which(COMPILER) is None, reason="no Linux with a C compiler here"
)

LEVELS = {
    "IP_": "IPPROTO_IP",
    "MC": "IPPROTO_IP",
    "SO_": "SOL_SOCKET",
    "UDP": "IPPROTO_UDP",
    "ICM": "255",
    "NET": "SOL_NETLINK",
}
GROUP = IPv4Address("239.1.2.3").packed
SOURCE = IPv4Address("192.0.2.1").packed
OTHER = IPv4Address("192.0.2.254").packed


def level_of(name: str) -> str:
    """The C name of the level of an option; SOL_RAW is in no header that programs see."""
    return next(level for prefix, level in LEVELS.items() if name.startswith(prefix))


def claims(platform: Platform) -> list[str]:
    """What the tables say, as C expressions that must be true."""
    found = []
    for name, option in platform.options.items():
        found += [f"{name} == {option.name}", f"{level_of(name)} == {option.level}"]
    for name, (level, kind) in platform.control.items():
        found += [f"{name} == {kind}", f"{level_of(name)} == {level}"]
    found += [
        f"MCAST_INCLUDE == {platform.mcast_include}",
        f"MCAST_EXCLUDE == {platform.mcast_exclude}",
        f"sizeof(void *) == {platform.word}",
        f"AF_INET == {structs.AF_INET}",
        f"sizeof(struct sockaddr_in) == {structs.SOCKADDR_IN_SIZE}",
        f"sizeof(struct sockaddr_storage) == {structs.SOCKADDR_STORAGE_SIZE}",
        f"sizeof(struct in_pktinfo) == {structs.IN_PKTINFO_SIZE}",
        f"sizeof(struct ip_mreqn) == {len(structs.ip_mreqn(platform, GROUP, SOURCE, 1))}",
        f"sizeof(struct group_req) == {len(structs.group_req(platform, 1, GROUP))}",
        f"sizeof(struct group_source_req) == {len(structs.group_source_req(platform, 1, GROUP, SOURCE))}",
        f"sizeof(struct group_filter) == {structs.group_filter_size(platform, 1)}",
        f"GROUP_FILTER_SIZE(3) == {structs.group_filter_size(platform, 3)}",
        f"IP_MSFILTER_SIZE(3) == {len(structs.ip_msfilter(platform, GROUP, 0, 3))}",
        f"sizeof(struct mmsghdr) == {struct.calcsize(structs.mmsghdr_format(platform))}",
        f"sizeof(struct iovec) == {struct.calcsize(structs.iovec_format(platform))}",
        f"sizeof(struct sock_fprog) == {len(structs.sock_fprog(platform, 1, 1))}",
        f"offsetof(struct sock_fprog, filter) == {structs.sock_fprog(platform, 0, 0xFF).index(255)}",
        f"sizeof(struct sock_extended_err) + sizeof(struct sockaddr_in) == {structs.EXTENDED_ERROR_SIZE}",
        f"sizeof(struct scm_timestamping64) == {structs.SCM_TIMESTAMPING_SIZE}",
        f"MSG_ERRQUEUE == {platform.number('MSG_ERRQUEUE')}",
        f"POLLRDHUP == {platform.number('POLLRDHUP')}",
        "sizeof(struct sock_filter) == 8",
        "sizeof(struct icmp_filter) == 4",
        "MSG_TRUNC == 0x20 && MSG_CTRUNC == 8 && MSG_DONTWAIT == 0x40",
        "sizeof(socklen_t) == 4",
    ]
    # Headers older than Linux 6.12 lack the last one.
    stamping = {name: number for name, number in platform.numbers.items() if name.startswith("SOF_")}
    assert stamping.pop("SOF_TIMESTAMPING_OPT_RX_FILTER") == 1 << 17
    found += [f"{name} == {number}" for name, number in stamping.items()]
    error = structs.ExtendedError(0x11111111, 0x22, 0x33, 0x44, 0x55555555, 0x66666666, SOURCE).octets(platform)
    fields = {"ee_errno": 0x11, "ee_origin": 0x22, "ee_type": 0x33, "ee_code": 0x44, "ee_info": 0x55, "ee_data": 0x66}
    found += [f"offsetof(struct sock_extended_err, {name}) == {error.index(octet)}" for name, octet in fields.items()]
    found += [f"CMSG_SPACE({n}) == {structs.cmsg_space(platform, n)}" for n in range(17)]
    found += [f"CMSG_LEN({n}) == {structs.cmsg_header_size(platform) + n}" for n in (0, 1, 12)]
    return found + offset_claims(platform)


def offset_claims(platform: Platform) -> list[str]:
    """Where the fields of `struct mmsghdr` and `struct group_filter` are."""
    fields = ["name", "namelen", "iov", "iovlen", "control", "controllen", "flags"]
    whole = structs.mmsghdr_format(platform)
    places = dict(zip([*(f"msg_hdr.msg_{f}" for f in fields), "msg_len"], places_of(whole), strict=True))
    found = [f"offsetof(struct mmsghdr, {name}) == {place}" for name, place in places.items()]
    marked = structs.group_filter(platform, 0x11111111, b"\x22" * 4, 0x33333333, [b"\x55" * 4])
    found += [
        f"offsetof(struct group_filter, gf_interface) == {marked.index(bytes.fromhex('11111111'))}",
        f"offsetof(struct group_filter, gf_group) == {marked.index(bytes.fromhex('22222222')) - 4}",
        f"offsetof(struct group_filter, gf_fmode) == {marked.index(bytes.fromhex('33333333'))}",
        f"offsetof(struct group_filter, gf_slist) == {marked.index(bytes.fromhex('55555555')) - 4}",
    ]
    return found


def places_of(layout: str) -> list[int]:
    """The offsets of the fields of a `struct` format: pack one field at a time with all bits set."""
    count = len(struct.unpack(layout, bytes(struct.calcsize(layout))))
    fields = [[-1 if c == "i" else 2**32 - 1 for c in layout if c in "QIi"][i] for i in range(count)]
    return [
        next(
            i
            for i, octet in enumerate(struct.pack(layout, *(fields[j] if j == k else 0 for j in range(count))))
            if octet
        )
        for k in range(count)
    ]


def check(tmp_path: Path, source: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "claims.c"
    file.write_text("\n".join([INCLUDES, *source, ""]), encoding="ascii")
    return subprocess.run(
        [COMPILER, "-fsyntax-only", *options, str(file)], capture_output=True, text=True, check=False, timeout=60
    )


def assertions(claimed: list[str]) -> list[str]:
    return [f'_Static_assert({claim}, "claim");' for claim in claimed]


def test_a_false_claim_is_found_out(tmp_path: Path) -> None:
    assert check(tmp_path, assertions(["IP_TTL == 3"])).returncode != 0


def test_numbers_sizes_and_offsets_are_those_of_this_machines_headers(tmp_path: Path) -> None:
    done = check(tmp_path, assertions(claims(this_platform())))
    assert done.returncode == 0, done.stderr


def test_numbers_sizes_and_offsets_are_those_of_a_32_bit_compiler(tmp_path: Path) -> None:
    if this_platform().byte_order != "little" or not (options := options_for_32_bits(tmp_path)):
        pytest.skip("this compiler has no -m32, or its headers can't be read with it")
    # These depend on the size of time_t; the library uses the numbers that always have 64 bits.
    by_time = {"SO_TIMESTAMPNS": 64, "SO_TIMESTAMPING": 65}
    claimed = [claim for claim in claims(linux(word=4)) if claim.split(" ")[0] not in by_time]
    done = check(
        tmp_path, assertions([*claimed, *(f"{name}_NEW == {number}" for name, number in by_time.items())]), *options
    )
    assert done.returncode == 0, done.stderr
    assert {name: linux(word=4).option(name).name for name in by_time} == by_time


def options_for_32_bits(tmp_path: Path) -> list[str]:
    """The compiler's options, if it can. Headers can be read without a 32-bit C library, its list of stubs aside."""
    (tmp_path / "gnu").mkdir()
    (tmp_path / "gnu" / "stubs-32.h").touch()
    asked = subprocess.run([COMPILER, "-print-multiarch"], capture_output=True, text=True, check=False, timeout=60)
    options = ["-m32", f"-I{tmp_path}", "-isystem", f"/usr/include/{asked.stdout.strip()}"]
    return options if check(tmp_path, [], *options).returncode == 0 else []


LAYOUTS = """
static void show(const char *name, const void *data, size_t size) {
    printf("%s ", name);
    for (size_t i = 0; i < size; i++) printf("%02x", ((const unsigned char *)data)[i]);
    printf("\\n");
}
static void fill(struct __kernel_sockaddr_storage *to, const char *address) {
    struct sockaddr_in in = {.sin_family = AF_INET};
    memcpy(&in.sin_addr, address, 4);
    memcpy(to, &in, sizeof in);
}
static struct cmsghdr *put(struct msghdr *m, struct cmsghdr *c, int level, int type, const void *data, size_t size) {
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(c), data, size);
    return CMSG_NXTHDR(m, c);
}
int main(void) {
    const char *group = "\\xef\\x01\\x02\\x03", *source = "\\xc0\\x00\\x02\\x01", *other = "\\xc0\\x00\\x02\\xfe";
    struct sockaddr_in in = {.sin_family = AF_INET};
    unsigned char port[2] = {0x12, 0x34};
    memcpy(&in.sin_port, port, 2);
    memcpy(&in.sin_addr, group, 4);
    show("sockaddr_in", &in, sizeof in);
    struct ip_mreqn mreqn = {.imr_ifindex = 7};
    memcpy(&mreqn.imr_multiaddr, group, 4);
    memcpy(&mreqn.imr_address, source, 4);
    show("ip_mreqn", &mreqn, sizeof mreqn);
    struct group_req req;
    memset(&req, 0, sizeof req);
    req.gr_interface = 0x01020304;
    fill(&req.gr_group, group);
    show("group_req", &req, sizeof req);
    struct group_source_req source_req;
    memset(&source_req, 0, sizeof source_req);
    source_req.gsr_interface = 0x01020304;
    fill(&source_req.gsr_group, group);
    fill(&source_req.gsr_source, source);
    show("group_source_req", &source_req, sizeof source_req);
    union { struct group_filter filter; char room[GROUP_FILTER_SIZE(2)]; } f;
    memset(&f, 0, sizeof f);
    f.filter.gf_interface = 0x01020304;
    f.filter.gf_fmode = MCAST_EXCLUDE + 2;
    f.filter.gf_numsrc = 2;
    fill(&f.filter.gf_group, group);
    fill(&f.filter.gf_slist[0], source);
    fill((struct __kernel_sockaddr_storage *)(f.room + GROUP_FILTER_SIZE(1)), other);
    show("group_filter", &f, sizeof f);
    struct in_pktinfo info = {.ipi_ifindex = 7};
    memcpy(&info.ipi_spec_dst, source, 4);
    memcpy(&info.ipi_addr, group, 4);
    show("in_pktinfo", &info, sizeof info);
    union { struct cmsghdr align; char room[CMSG_SPACE(sizeof info) + CMSG_SPACE(1) + CMSG_SPACE(4)]; } control;
    memset(&control, 0, sizeof control);
    struct msghdr m = {.msg_control = &control, .msg_controllen = sizeof control};
    unsigned char tos = 0xb8;
    int ttl = 255;
    struct cmsghdr *c = put(&m, CMSG_FIRSTHDR(&m), IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
    c = put(&m, c, IPPROTO_IP, IP_TOS, &tos, sizeof tos);
    put(&m, c, IPPROTO_IP, IP_TTL, &ttl, sizeof ttl);
    show("cmsg", &control, sizeof control);
    struct sock_fprog program = {.len = 3, .filter = (struct sock_filter *)0x01020304};
    show("sock_fprog", &program, sizeof program);
    struct iovec vector = {.iov_base = (void *)0x01020304, .iov_len = 5};
    show("iovec", &vector, sizeof vector);
    return 0;
}
"""


@pytest.fixture(scope="module")
def laid_out_by_c(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("layouts")
    (directory / "layouts.c").write_text(INCLUDES + LAYOUTS, encoding="ascii")
    subprocess.run([COMPILER, "-w", "-o", "layouts", "layouts.c"], cwd=directory, check=True, timeout=60)
    done = subprocess.run(["./layouts"], cwd=directory, check=True, capture_output=True, text=True, timeout=60)
    return {name: bytes.fromhex(data) for name, data in (line.split() for line in done.stdout.splitlines())}


def test_structures_have_the_octets_that_c_lays_out(laid_out_by_c: dict[str, bytes]) -> None:
    here = this_platform()
    pktinfo = structs.in_pktinfo(here, 7, SOURCE, GROUP)
    ttl = (255).to_bytes(4, here.byte_order)
    ours = {
        "sockaddr_in": structs.sockaddr_in(here, GROUP, 0x1234),
        "ip_mreqn": structs.ip_mreqn(here, GROUP, SOURCE, 7),
        "group_req": structs.group_req(here, 0x01020304, GROUP),
        "group_source_req": structs.group_source_req(here, 0x01020304, GROUP, SOURCE),
        "group_filter": structs.group_filter(here, 0x01020304, GROUP, here.mcast_exclude + 2, [SOURCE, OTHER]),
        "in_pktinfo": pktinfo,
        "cmsg": structs.cmsg(here, 0, 8, pktinfo) + structs.cmsg(here, 0, 1, b"\xb8") + structs.cmsg(here, 0, 2, ttl),
        "iovec": struct.pack(structs.iovec_format(here), 0x01020304, 5),
    }
    program = structs.sock_fprog(here, 3, 0x01020304)
    # C leaves the padding after the length undefined.
    assert (program[:2], program[-here.word :]) == (
        laid_out_by_c["sock_fprog"][:2],
        laid_out_by_c.pop("sock_fprog")[-here.word :],
    )
    assert ours == laid_out_by_c


def test_what_c_lays_out_is_read_back(laid_out_by_c: dict[str, bytes]) -> None:
    here = this_platform()
    assert structs.parse_sockaddr_in(laid_out_by_c["sockaddr_in"]) == (GROUP, 0x1234)
    assert structs.parse_in_pktinfo(here, laid_out_by_c["in_pktinfo"]) == (7, SOURCE, GROUP)
    mode = here.mcast_exclude + 2
    assert structs.parse_group_filter(here, laid_out_by_c["group_filter"]) == (mode, 2, (SOURCE, OTHER))
    kinds = [(level, kind, data) for _, level, kind, data in structs.iterate_cmsgs(here, laid_out_by_c["cmsg"])]
    assert kinds == [
        (0, 8, laid_out_by_c["in_pktinfo"]),
        (0, 1, b"\xb8"),
        (0, 2, (255).to_bytes(4, here.byte_order)),
    ]
