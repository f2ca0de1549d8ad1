"""Where a sandbox refuses a part of what the library asks for, the rest works, and what can't work says why."""

from __future__ import annotations

import errno
import os
import textwrap

import pytest

from support import sandbox
from support.links import bridge, ip
from support.sandbox import no_netlink, no_netlink_bind, no_option
from trio_ipv4 import ControlFlags

GROUP = "239.1.2.3"
SOL_IP, SOL_SOCKET = 0, 1
IP_MULTICAST_ALL, MCAST_MSFILTER = 49, 48  # linux/in.h
SO_TIMESTAMPNS, SO_RXQ_OVFL = 35, 40  # asm-generic/socket.h

NETLINK_REFUSALS = [
    *(no_netlink(number) for number in (errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT)),
    no_netlink_bind(errno.EACCES),
]
NO_BATCHES = [sandbox.Refusal(call, errno.ENOSYS) for call in ("recvmmsg", "sendmmsg")]

PREPARE = """
GROUP = "239.1.2.3"
def multicast(payload, out="127.0.0.1"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(out))
        sender.sendto(payload, (GROUP, 5000))
def unicast(payload, port=5000):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(payload, ("127.0.0.1", port))
def tell(call, *arguments):
    try:
        print(call(*arguments))
    except OSError as error:
        print(type(error).__name__, error.errno, error.strerror)
"""


def run(script: str, *refusals: sandbox.Refusal, before: str = "", table: str | None = None) -> list[str]:
    return sandbox.run(PREPARE + textwrap.dedent(script), refusals, before=before, table=table)


def spell(refusal: object) -> str | None:
    """Name a refusal in a test's name."""
    return f"{refusal.call} {errno.errorcode[refusal.errno]}" if isinstance(refusal, sandbox.Refusal) else None


# The sandbox itself


@pytest.mark.parametrize(
    ("refusal", "call"),
    [
        (no_netlink(errno.EACCES), "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"),
        (no_netlink_bind(errno.EACCES), "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).bind((0, 0))"),
        (no_option("setsockopt", errno.EACCES, SOL_SOCKET, SO_RXQ_OVFL), "udp.setsockopt(1, 40, 1)"),
        (no_option("getsockopt", errno.EACCES, SOL_SOCKET, SO_RXQ_OVFL), "udp.getsockopt(1, 40)"),
        (sandbox.Refusal("recvmmsg", errno.EACCES), "mmsg('recvmmsg')"),
        (sandbox.Refusal("sendmmsg", errno.EACCES), "mmsg('sendmmsg')"),
    ],
    ids=spell,
)
def test_the_sandbox_refuses_what_it_is_told_to_and_nothing_else(refusal: sandbox.Refusal, call: str) -> None:
    script = f"""
    import ctypes, warnings
    warnings.simplefilter("ignore", ResourceWarning)
    def mmsg(name):
        if getattr(ctypes.CDLL(None, use_errno=True), name)(udp.fileno(), None, 0, 0, None) < 0:
            raise OSError(ctypes.get_errno(), "")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.setsockopt(1, 35, 1)
        assert udp.getsockopt(1, 35) == 1
        try:
            {call}
        except OSError as error:
            print(error.errno)
        else:
            print("carried out")
    """
    assert run(script, refusal) == [str(errno.EACCES)]
    assert run(script) == ["carried out"]


# rtnetlink


@pytest.mark.parametrize("refusal", NETLINK_REFUSALS, ids=spell)
def test_connections_work_without_rtnetlink(refusal: sandbox.Refusal) -> None:
    ip("route add 224.0.0.0/4 dev lo")
    script = """
    async with open_udp(port=5000) as conn:
        for where in ("lo", 1, IPv4Address("127.0.0.1"), None):
            async with conn.joined(where, GROUP) as first:
                async with conn.joined(where, GROUP) as second:
                    multicast(repr(where).encode())
                    datagram = await conn.receive()
                    print(datagram.payload.decode(), datagram.control.ifindex, first.interface, second.interface)
                conn.repair_memberships()
                multicast(b"repaired")
                print((await conn.receive()).payload.decode())
            print(dict(conn.memberships))
        conn.join_group("lo", GROUP)
        conn.leave_group("lo", GROUP)
        conn.multicast_interface = IPv4Address("127.0.0.1")
        print(conn.multicast_interface)
    """
    expected = []
    for where in ("'lo'", "1", "IPv4Address('127.0.0.1')", "None"):
        expected += [f"{where} 1 1 1", "repaired", "{}"]
    assert run(script, refusal) == [*expected, "1"]


@pytest.mark.parametrize("refusal", NETLINK_REFUSALS, ids=spell)
def test_what_needs_rtnetlink_says_that_it_is_refused_and_what_works(refusal: sandbox.Refusal) -> None:
    script = """
    async def watch():
        async with watch_interfaces():
            raise AssertionError
    async def handler(conn, interface):
        raise AssertionError
    async def attempt(function, *arguments):
        try:
            await function(*arguments)
        except OSError as error:
            print(type(error).__name__, error.errno, error.strerror)
    before = len(os.listdir("/proc/self/fd"))
    for call, argument in (
        (interfaces, ()),
        (interface_by_name, ("lo",)),
        (interface_by_index, (1,)),
        (input_route, ("lo", "127.0.0.1", GROUP)),
    ):
        tell(call, *argument)
    await attempt(watch)
    async with open_udp(port=5000) as conn:
        await attempt(follow_group, conn, GROUP)
    await attempt(serve_group, handler, GROUP, 5000)
    print(len(os.listdir("/proc/self/fd")) - before)
    """
    *refused, leaked = run(script, refusal)
    assert len(refused) == 7
    kind = type(OSError(refusal.errno, "")).__name__
    for line in refused:
        assert line.startswith(f"{kind} {refusal.errno} can't ")
        assert "rtnetlink is refused here" in line
        assert "connections work, with an interface's name, index or address" in line
    assert leaked == "0"


# Options that gVisor and others lack

NO_MULTICAST_ALL = [
    no_option("setsockopt", number, SOL_IP, IP_MULTICAST_ALL) for number in (errno.ENOPROTOOPT, errno.EOPNOTSUPP)
]


@pytest.mark.parametrize("refusal", NO_MULTICAST_ALL, ids=spell)
def test_connections_open_without_multicast_all(refusal: sandbox.Refusal) -> None:
    script = """
    async with open_udp(port=5000) as conn, conn.joined("lo", GROUP):
        multicast(b"heard")
        print((await conn.receive()).payload.decode())
    heard = trio.Event()
    async def handler(conn, interface):
        print(interface.name, (await conn.receive()).payload.decode())
        heard.set()
    async with trio.open_nursery() as nursery:
        where = lambda interface: interface.name == "lo"
        await nursery.start(lambda task_status: serve_group(handler, GROUP, 5000, where=where, task_status=task_status))
        multicast(b"served")
        await heard.wait()
        nursery.cancel_scope.cancel()
    """
    assert run(script, refusal) == ["heard", "lo served"]


@pytest.mark.parametrize("refusal", NO_MULTICAST_ALL, ids=spell)
@pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets need CAP_NET_RAW")
def test_raw_connections_open_without_multicast_all(refusal: sandbox.Refusal) -> None:
    script = """
    async with open_ip(253) as conn, open_raw(253) as raw:
        await conn.send_to(b"heard", ("127.0.0.1", 0))
        print((await conn.receive()).payload.decode())
        print((await raw.receive()).payload.decode())
    """
    assert run(script, refusal) == ["heard", "heard"]


@pytest.mark.parametrize("refusal", NO_MULTICAST_ALL, ids=spell)
def test_setting_multicast_all_names_the_option_that_is_missing(refusal: sandbox.Refusal) -> None:
    script = """
    async with open_udp() as conn:
        tell(setattr, conn, "multicast_all", True)
        tell(setattr, conn, "multicast_all", False)
    """
    for line in run(script, refusal):
        assert line.startswith(f"OSError {refusal.errno} can't set IP_MULTICAST_ALL to ")


@pytest.mark.parametrize("number", [errno.ENOPROTOOPT, errno.EOPNOTSUPP], ids=errno.errorcode.get)
@pytest.mark.parametrize(
    ("option", "fact", "other"),
    [((SO_RXQ_OVFL, "SO_RXQ_OVFL"), "DROPS", "TIMESTAMP"), ((SO_TIMESTAMPNS, "SO_TIMESTAMPNS"), "TIMESTAMP", "DROPS")],
)
def test_a_fact_that_is_missing_is_named_and_takes_no_other_with_it(
    number: int, option: tuple[int, str], fact: str, other: str
) -> None:
    script = f"""
    def switches(socket):
        return [socket.getsockopt(0, option) for option in (8, 12, 13)]  # IP_PKTINFO, IP_RECVTTL, IP_RECVTOS
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        await made.bind(("127.0.0.1", 5000))
        conn = PacketConn(made)
        print(conn.control_flags)
        conn.control_flags = ControlFlags.TOS | ControlFlags.DST | ControlFlags.{other}
        tell(setattr, conn, "control_flags", ControlFlags.TTL | ControlFlags.{fact})
        print(conn.control_flags == ControlFlags.TOS | ControlFlags.DST | ControlFlags.{other}, switches(made))
        unicast(b"heard")
        control = (await conn.receive()).control
        print(control.tos, control.dst, control.ttl)
    tell(lambda: open_udp(control_flags=ControlFlags.{fact}))
    open_udp(control_flags=ControlFlags.{other}).close()
    """
    refusals = [no_option(call, number, SOL_SOCKET, option[0]) for call in ("getsockopt", "setsockopt")]
    none, refused, unchanged, heard, not_opened = run(script, *refusals)
    assert none == str(ControlFlags(0))
    assert refused.startswith(f"OSError {number} can't set {option[1]} to 1")
    assert unchanged == "True [1, 0, 1]"
    assert heard == "0 127.0.0.1 None"
    assert not_opened.startswith(f"OSError {number} can't set {option[1]} to 1")


@pytest.mark.parametrize("number", [errno.ENOPROTOOPT, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_joining_works_where_filters_cannot_be_read(number: int) -> None:
    script = """
    async with open_udp(port=5000) as conn:
        async with conn.joined("lo", GROUP):
            async with conn.joined("lo", GROUP):
                multicast(b"heard")
                print((await conn.receive()).payload.decode())
        print(dict(conn.memberships), (1, IPv4Address(GROUP)) in testing.igmp_groups())
        async with conn.joined("lo", GROUP, sources=SourceFilter.include("127.0.0.1")):
            multicast(b"from the source")
            print((await conn.receive()).payload.decode())
        async with conn.joined("lo", GROUP, sources=SourceFilter.exclude("127.0.0.9")):
            multicast(b"from another")
            print((await conn.receive()).payload.decode())
    """
    refusal = no_option("getsockopt", number, SOL_IP, MCAST_MSFILTER)
    assert run(script, refusal) == ["heard", "{} False", "from the source", "from another"]


# recvmmsg and sendmmsg


@pytest.mark.parametrize("refusals", [NO_BATCHES, NO_BATCHES[:1], NO_BATCHES[1:]], ids=["both", "receive", "send"])
@pytest.mark.parametrize("through", ["compiled", "ctypes"])
def test_datagrams_pass_without_the_calls_for_many(refusals: list[sandbox.Refusal], through: str) -> None:
    script = f"""
    if {through!r} == "compiled" and systems.find_extension() is None:
        print("no compiled part")
        return
    systems.use({through!r})
    flags = ControlFlags.TTL | ControlFlags.DST
    async with open_udp("127.0.0.1", 5000, control_flags=flags) as conn, open_udp("127.0.0.1", 5001) as sending:
        here, request = ("127.0.0.1", 5000), ControlMessage(ttl=7)
        for number in range(3):  # The first time, and when it is known.
            await sending.send_to(b"single", here, control=request)
            datagram = await conn.receive()
            print(datagram.payload.decode(), datagram.peer, datagram.control.ttl, datagram.control.dst)
            await sending.send_batch([Datagram(bytes([each]) * each, here, control=request) for each in range(20)])
            got = []
            while len(got) < 20:
                got += await conn.receive_batch(7, max_bytes=10)
            print([each.payload for each in got] == [bytes([each]) * min(each, 10) for each in range(20)])
            print([each.truncated for each in got] == [each > 10 for each in range(20)])
            print(set(each.control.ttl for each in got))
        # What is refused is told as ever.
        try:
            await sending.send_batch([Datagram(b"", here), Datagram(b"", here), Datagram(b"", ("198.51.100.1", 9))])
        except PartialSendError as error:
            print(error.sent, error.errno)
    """
    each = ["single ('127.0.0.1', 5001) 7 127.0.0.1", "True", "True", "{7}"]
    lines = run(script, *refusals)
    if lines == ["no compiled part"]:
        pytest.skip("the package was installed without its compiled part")
    assert lines == [*each * 3, f"2 {errno.ENETUNREACH}"]


@pytest.mark.parametrize("through", ["compiled", "ctypes"])
def test_nothing_is_lost_where_a_socket_is_waited_for_without_the_calls_for_many(through: str) -> None:
    script = f"""
    systems.use({through!r})
    async with open_udp("127.0.0.1", 5000) as conn, trio.open_nursery() as nursery:
        async def hear():
            got = []
            async for each in conn.batches(8):
                got += [int(datagram.payload) for datagram in each]
                if len(got) == 1000:
                    print(got == list(range(1000)))
                    return
                if len(got) % 100 == 0:
                    await sending.send_batch([Datagram(b"%d" % each, ("127.0.0.1", 5000)) for each in next(hundreds)])
        hundreds = iter([range(start, start + 100) for start in range(0, 1000, 100)])
        async with open_udp("127.0.0.1") as sending:
            await sending.send_batch([Datagram(b"%d" % each, ("127.0.0.1", 5000)) for each in next(hundreds)])
            await hear()
    """
    assert run(script, *NO_BATCHES) == ["True"]


# The kernel's tables


@pytest.mark.parametrize("refusals", [(), (no_netlink(errno.EPERM),)], ids=["rtnetlink", "no rtnetlink"])
@pytest.mark.parametrize("table", ["hidden", "empty"])
def test_a_second_scope_works_without_the_kernels_table(table: str, refusals: tuple[sandbox.Refusal, ...]) -> None:
    script = """
    async with open_udp(port=5000) as conn, conn.joined("lo", GROUP):
        async with conn.joined("lo", GROUP):
            pass
        conn.repair_memberships()
        multicast(b"heard")
        print((await conn.receive()).payload.decode())
    """
    assert run(script, *refusals, table=table) == ["heard"]


@pytest.mark.parametrize("refusals", [(), (no_netlink(errno.EPERM),)], ids=["rtnetlink", "no rtnetlink"])
@pytest.mark.parametrize("table", ["hidden", "empty"])
@pytest.mark.parametrize("how", ["conn.repair_memberships()", "await more.enter_async_context(conn.joined(30, GROUP))"])
@pytest.mark.parametrize(
    "sources", ["SourceFilter.any()", "SourceFilter.include('198.18.30.1')", "SourceFilter.exclude('198.18.30.9')"]
)
def test_a_dead_membership_is_repaired_without_the_kernels_table(
    table: str, refusals: tuple[sandbox.Refusal, ...], how: str, sources: str
) -> None:
    ip(*bridge("en0", 30))
    # A process that nothing refuses anything makes the link anew.
    before = 'remaking = subprocess.Popen(["ip", "-batch", "-"], stdin=subprocess.PIPE, text=True)'
    lines = "\n".join(["link delete en0", *bridge("en0", 30)])
    both = f"SourceFilter.merge([{sources}, SourceFilter.any()])" if "joined" in how else sources
    script = f"""
    async with open_udp(port=5000) as conn, conn.joined(30, GROUP, sources={sources}):
        remaking.communicate({lines!r})
        assert remaking.returncode == 0
        multicast(b"lost", "198.18.30.1")
        async with contextlib.AsyncExitStack() as more:
            {how}
            multicast(b"heard", "198.18.30.1")
            print((await conn.receive()).payload.decode())
            print(conn.memberships[30, IPv4Address(GROUP)] == {both})
    """
    assert run(script, *refusals, before=before, table=table) == ["heard", "True"]


def test_the_tables_of_testing_say_what_is_missing() -> None:
    script = """
    tell(testing.igmp_groups)
    tell(testing.source_filters)
    """
    for line in run(script, table="hidden"):
        assert line.startswith(f"FileNotFoundError {errno.ENOENT} this kernel has no such table")
        assert "CONFIG_IP_MULTICAST" in line
