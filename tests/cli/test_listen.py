"""`trio-ipv4 listen` on hosts of a lab and of a simulated network: what it counts, where it joins, how it ends."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from support.listening import Shown, as_cables, listening, wanted
from trio_ipv4 import CappedBufferWarning, ControlMessage, Datagram, SourceFilter, open_ip, open_udp
from trio_ipv4._cli.capture import read_capture
from trio_ipv4._cli.listen import flows, receivers, session
from trio_ipv4._cli.listen.records import (
    DatagramShown,
    Dropped,
    FlowShown,
    FlowTotal,
    Joined,
    Left,
    ManyFlows,
    Nothing,
    Refused,
    Resumed,
    Stalled,
    Started,
    Summary,
    Waiting,
)
from trio_ipv4._cli.probe import Probe, parse_probe
from trio_ipv4.testing import open_lab, simulate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from conftest import Eventually
    from trio_ipv4.testing import Host, Lab, Network, SimulatedNetwork

GROUP, OTHER = "239.1.2.3", "239.1.2.4"
TO = f"{GROUP}:5000"
FLOOD = """
import sys, time
import trio
from trio_ipv4 import open_udp
from trio_ipv4._cli.probe import Probe

async def main(seconds):
    sent, end = 0, time.monotonic() + seconds
    async with open_udp() as conn:
        conn.multicast_interface = "en0"
        while time.monotonic() < end:
            payload = b"".join(Probe(1, sent + each, 0).marshal(100) for each in range(64))
            await conn.send_segmented(payload, 100, ("239.1.2.3", 5000))
            sent += 64
    print(sent)

trio.run(main, float(sys.argv[1]))
"""


@pytest.fixture
def cable(lab: Lab) -> Lab:
    return as_cables(lab)


@pytest.fixture(params=["lab", "simulated"])
def either(request: pytest.FixtureRequest) -> Iterator[Network]:
    """Two hosts on two links that are plain cables: in a lab, and simulated."""
    if request.param == "simulated":
        with simulated(links=2) as net:
            yield net
        return
    request.getfixturevalue("needs_lab")
    with open_lab(links=2) as lab:
        yield as_cables(lab)


@contextlib.contextmanager
def simulated(links: int = 1, **conditions: Any) -> Iterator[SimulatedNetwork]:
    """Two hosts on simulated links."""
    with simulate() as net:
        for link, (number, name) in itertools.product(range(links), enumerate(("a", "b"), 1)):
            if name == "a":
                net.link(**conditions)
            host = net[name] if name in net else net.host(name)
            host.attach(link, f"en{link}", f"198.18.{link}.{number}/24")
        yield net


async def send(
    host: Host,
    payloads: Iterable[bytes],
    *,
    to: str = TO,
    interface: str = "en0",
    source: str = "0.0.0.0",
    control: ControlMessage | None = None,
) -> int:
    """Send from another host, and return the source port."""
    group, _, port = to.partition(":")
    request = control or ControlMessage()
    async with host.call(open_udp, source) as conn:
        conn.multicast_interface = interface
        await conn.send_batch([Datagram(each, (group, int(port)), control=request) for each in payloads])
        return conn.local_endpoint[1]


def probes(numbers: Iterable[int], stream: int = 1) -> list[bytes]:
    return [Probe(stream, number, 0).marshal(100) for number in numbers]


async def sleep_instead(_: object) -> None:
    await trio.sleep_forever()


def no_groups(host: Host) -> bool:
    """Whether the host's kernel has nothing but the membership that is its own."""
    return {str(group) for _, group in host.groups()} <= {"224.0.0.1"}


# Counting


@pytest.mark.parametrize("buffer", [None, 20_000])
async def test_every_datagram_of_a_flood_is_counted_or_reported_as_dropped(buffer: int | None, cable: Lab) -> None:
    sent = []

    async def flood(_: Shown) -> None:
        argv = cable["b"].command([sys.executable, "-c", FLOOD, "1"])
        done = await trio.run_process(argv, capture_stdout=True)
        sent.append(int(done.stdout))

    status, kept = await listening(cable["a"], wanted(TO, buffer=buffer), flood, interrupt=True)
    (summary,) = kept.of(Summary)
    assert status == 130
    assert summary.datagrams + summary.dropped == sent[0]
    assert summary.dropped == sum(each.datagrams for each in kept.of(Dropped))
    assert (summary.dropped > 0) is (buffer is not None) or buffer is None
    # What the kernel dropped is missing from the numbers, but for those after the last one that was heard.
    assert (summary.expected, summary.lost) <= (sent[0], summary.dropped)
    assert summary.expected is not None
    assert sent[0] - summary.expected + (summary.lost or 0) == summary.dropped


async def test_loss_and_duplicates_agree_with_the_link_s_capture(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with simulated(loss=0.1, duplicate=0.1, reorder=0.1, latency=0.01) as net, net.capture(tmp_path / "link.pcap"):
        witness = net["a"].call(open_udp, GROUP, 5000, share_port=True, bind_group=True)
        witness.receive_buffer_size = 8 << 20
        witness.join_group("en0", GROUP)

        async def act(_: Shown) -> None:
            async with net["b"].call(open_udp) as conn:
                conn.multicast_interface = "en0"
                for number in range(2000):
                    await conn.send_to(probes([number])[0], (GROUP, 5000))
                    await trio.sleep(0.003)
            await trio.sleep(1)

        status, kept = await listening(net["a"], wanted(TO, seconds=10), act)
        heard: list[int] = []
        with contextlib.suppress(trio.WouldBlock):
            while True:
                probe = parse_probe(witness.receive_nowait().payload)
                assert probe is not None
                heard.append(probe[1])
    on_the_link = [parse_probe(each.packet[28:]) for each in read_capture(tmp_path / "link.pcap")]
    sent = {probe[1] for probe in on_the_link if probe is not None}
    assert sent == set(range(2000))
    (total,) = kept.of(FlowTotal)
    between = {number for number in sent if heard[0] <= number <= max(heard)}
    assert status == 0
    assert total.datagrams == len(heard)
    assert total.expected == len(between)
    assert total.lost == len(between - set(heard))
    assert total.duplicates == len(heard) - len(set(heard))
    assert min(total.lost, total.duplicates, total.reordered or 0) > 50


async def test_a_flow_for_each_source_group_and_interface(either: Network) -> None:
    either["b"].add_address("en0", "198.18.0.22/24")

    async def act(_: Shown) -> None:
        for count, source, to, interface in (
            (1, "198.18.0.2", TO, "en0"),
            (2, "198.18.1.2", TO, "en1"),
            (3, "198.18.0.2", f"{OTHER}:5000", "en0"),
            (4, "198.18.0.2", f"{GROUP}:5001", "en0"),
            (5, "198.18.0.2", f"{OTHER}:5001", "en0"),  # Nobody asked for it.
            (6, "198.18.0.22", TO, "en0"),
        ):
            await send(either["b"], [bytes(10)] * count, source=source, to=to, interface=interface)

    what = wanted(TO, f"{OTHER}:5000", f"{GROUP}:5001", TO, count=16)
    status, kept = await listening(either["a"], what, act)
    assert status == 0
    found = {
        (str(each.group), each.port, str(each.source), each.interface, each.datagrams) for each in kept.of(FlowTotal)
    }
    assert found == {
        (GROUP, 5000, "198.18.0.2", "en0", 1),
        (GROUP, 5000, "198.18.1.2", "en1", 2),
        (OTHER, 5000, "198.18.0.2", "en0", 3),
        (GROUP, 5001, "198.18.0.2", "en0", 4),
        (GROUP, 5000, "198.18.0.22", "en0", 6),
    }
    (summary,) = kept.of(Summary)
    assert (summary.datagrams, summary.octets, summary.flows, summary.lost) == (16, 160, 5, None)
    (started,) = kept.of(Started)
    assert (started.groups, started.interfaces) == ((TO, f"{OTHER}:5000", f"{GROUP}:5001"), ("en0", "en1"))
    assert no_groups(either["a"])


async def test_ttl_tos_and_sizes_are_those_that_were_sent(either: Network) -> None:
    async def act(_: Shown) -> None:
        for ttl, tos, size in ((1, 0, 10), (7, 0xB9, 20), (64, 0xB9, 5)):
            await send(either["b"], [bytes(size)], control=ControlMessage(ttl=ttl, tos=tos))

    _, kept = await listening(either["a"], wanted(TO, count=3), act)
    totals = kept.of(FlowTotal)
    assert [(each.ttl, each.tos, each.ecn) for each in totals] == [((1, 7, 64), (0, 0xB9), (0, 1))]
    assert [(each.octets_least, each.octets_most) for each in totals] == [(5, 20)]


async def test_the_longest_gap_is_by_the_kernel_s_clock(autojump_clock: trio.testing.MockClock) -> None:
    with simulated() as net:

        async def act(_: Shown) -> None:
            for pause in (0.5, 2, 1):
                await send(net["b"], [b"x"])
                await trio.sleep(pause)
            await send(net["b"], [b"x"])

        _, kept = await listening(net["a"], wanted(TO, count=4), act)
    (total,) = kept.of(FlowTotal)
    assert total.longest_gap_seconds == pytest.approx(2)
    assert total.datagrams_per_second == pytest.approx(3 / 3.5, abs=1e-3)


async def test_count_stops_at_exactly_so_many(either: Network) -> None:
    async def act(_: Shown) -> None:
        await send(either["b"], [b"x"] * 1000)

    status, kept = await listening(either["a"], wanted(TO, count=7, printed_as="hex", expect=0), act)
    assert status == 0
    assert len(kept.of(DatagramShown)) == 7
    assert [each.datagrams for each in kept.of(Summary)] == [7]


async def test_what_is_queued_when_it_ends_is_counted(either: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers.Receiver, "run", sleep_instead)

    async def act(_: Shown) -> None:
        await send(either["b"], [b"x"] * 50)

    status, kept = await listening(either["a"], wanted(TO), act, interrupt=True)
    assert status == 130
    assert [each.datagrams for each in kept.of(Summary)] == [50]


async def test_rates_are_shown_in_each_interval_in_which_something_changes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with simulated() as net:

        async def act(_: Shown) -> None:
            await trio.sleep(0.05)
            for _ in range(20):
                await send(net["b"], [bytes(100)])
                await trio.sleep(0.1)

        _, kept = await listening(net["a"], wanted(TO, seconds=10.5), act)
    shown = [(each.datagrams_per_second, each.bits_per_second) for each in kept.of(FlowShown)]
    # Once more when it has ended, and then no more.
    assert shown == [(10, 8000), (10, 8000), (0, 0)]


async def test_another_interval_is_obeyed_and_none_is_none(autojump_clock: trio.testing.MockClock) -> None:
    with simulated() as net:

        async def act(_: Shown) -> None:
            await trio.sleep(0.5)
            for _ in range(10):
                await send(net["b"], [bytes(100)])
                await trio.sleep(1)

        for every, count in ((5.0, 2), (None, 0)):
            _, kept = await listening(net["a"], wanted(TO, seconds=10.5, every=every), act)
            assert [each.datagrams_per_second for each in kept.of(FlowShown)] == [1] * count


async def test_of_many_flows_the_busiest_are_shown_and_all_summed_up(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(session, "_SHOWN", 2)
    monkeypatch.setattr(receivers, "_MAX_ORIGINS", 3)
    with simulated() as net:
        sources = [f"198.18.0.{number}" for number in range(10, 15)]
        for source in sources:
            net["b"].add_address("en0", f"{source}/24")

        async def act(_: Shown) -> None:
            for number, source in enumerate(sources, 1):
                for _ in range(2):
                    await send(net["b"], [b"x"] * number, source=source)

        _, kept = await listening(net["a"], wanted(TO, seconds=3.5), act)
    first = [str(each.source) for each in kept.of(FlowShown)][:2]
    assert first == ["198.18.0.13", "198.18.0.14"]
    assert [each.datagrams for each in kept.of(FlowTotal)] == [2, 4, 6, 8, 10]
    assert [each.is_over for each in kept.of(ManyFlows)] == [False]
    assert "2 busiest" in kept.of(ManyFlows)[0].text()


async def test_flows_beyond_the_bound_are_counted_and_told_of(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(flows, "MAX_FLOWS", 1)
    with simulated() as net:
        net["b"].add_address("en0", "198.18.0.22/24")

        async def act(_: Shown) -> None:
            for source in ("198.18.0.2", "198.18.0.22"):
                await send(net["b"], [b"x"] * 3, source=source)

        _, kept = await listening(net["a"], wanted(TO, count=6, printed_as="hex"), act)
    assert [(each.source, each.datagrams) for each in kept.of(FlowTotal)] == [(IPv4Address("198.18.0.2"), 3), (None, 3)]
    assert [each.datagrams for each in kept.of(Summary)] == [6]
    assert "more than 10,000 flows" in next(each.text() for each in kept.of(ManyFlows) if each.is_over)
    assert str(kept.of(DatagramShown)[-1].source) == "198.18.0.22"


async def test_a_flow_that_stops_and_comes_back_is_told_of(autojump_clock: trio.testing.MockClock) -> None:
    with simulated() as net:

        async def act(kept: Shown) -> None:
            for _ in range(20):
                await send(net["b"], [b"x"])
                await trio.sleep(0.2)
            await kept.wait_for(Stalled)
            await trio.sleep(5)
            await send(net["b"], [b"x"])

        _, kept = await listening(net["a"], wanted(TO, seconds=20), act)
    (stalled,), (resumed,) = kept.of(Stalled)[:1], kept.of(Resumed)
    assert (stalled.group, str(stalled.source), stalled.interface) == (TO, "198.18.0.2", "en0")
    assert 6.5 < stalled.seconds_since_start < 8.5
    assert 8 < resumed.gap_seconds < 10


# Sources


@pytest.mark.parametrize("mode", ["include", "exclude"])
async def test_only_the_sources_that_are_asked_for_are_heard(mode: str, either: Network) -> None:
    either["b"].add_address("en0", "198.18.0.22/24")

    async def act(_: Shown) -> None:
        for source in ("198.18.0.2", "198.18.0.22"):
            await send(either["b"], [b"x"] * 4, source=source)

    sources = getattr(SourceFilter, mode)("198.18.0.22")
    _, kept = await listening(either["a"], wanted(TO, sources=sources), act, interrupt=True)
    heard = "198.18.0.22" if mode == "include" else "198.18.0.2"
    assert [(str(each.source), each.datagrams) for each in kept.of(FlowTotal)] == [(heard, 4)]
    (started,) = kept.of(Started)
    which = "only" if mode == "include" else "all sources but"
    assert started.text() == f"Listening to {TO} on en0, en1, {which} 198.18.0.22."


# Interfaces


async def test_an_interface_that_comes_later_is_joined_and_told_of(either: Network) -> None:
    host = either["a"]

    async def act(kept: Shown) -> None:
        await send(either["b"], [b"x"], interface="en0")
        host.attach(0, "en7", "198.18.0.7/24")
        await kept.wait_for(Joined)
        await send(either["b"], [b"x"] * 2)
        host.detach("en7")
        await kept.wait_for(Left)

    what = wanted(TO, interfaces=("en7",), every=0.05)
    _, kept = await listening(host, what, act, interrupt=True)
    assert [each.text() for each in kept.of(Waiting)] == ["There is no interface en7 yet. It is joined when it comes."]
    assert kept.of(Started)[0].text() == f"Listening to {TO} on no interface so far."
    assert [each.text() for each in kept.of(Joined)] == [f"{TO} is joined on en7 now."]
    assert [each.text() for each in kept.of(Left)] == [f"{TO} is no longer joined on en7: it went, or was set down."]
    assert [(each.interface, each.datagrams) for each in kept.of(FlowTotal)] == [("en7", 2)]
    assert no_groups(host)


async def test_a_flow_goes_on_under_the_name_of_an_interface_that_is_made_anew(either: Network) -> None:
    host = either["a"]

    async def act(kept: Shown) -> None:
        await send(either["b"], probes(range(3)))
        host.detach("en0")
        await kept.wait_for(Left)
        host.attach(0, "en0", "198.18.0.1/24")
        await kept.wait_for(Joined)
        await send(either["b"], probes(range(3)))

    _, kept = await listening(host, wanted(TO, every=0.05, interfaces=("en0",)), act, interrupt=True)
    assert [(each.interface, each.datagrams) for each in kept.of(FlowTotal)] == [("en0", 6)]


def test_an_interface_whose_name_nobody_knows_has_its_number() -> None:
    assert receivers.Names()[2**30] == f"#{2**30}"


async def test_loopback_is_joined_by_name(either: Network) -> None:
    host = either["a"]

    async def act(_: Shown) -> None:
        await send(host, [b"x"], interface="lo")

    status, kept = await listening(host, wanted(TO, interfaces=("lo",), count=1), act)
    assert status == 0
    assert [(str(each.source), each.interface) for each in kept.of(FlowTotal)] == [("127.0.0.1", "lo")]


async def test_an_alternative_name_is_as_good(cable: Lab) -> None:
    cable["a"].ip("link", "property", "add", "dev", "en0", "altname", "uplink-of-the-house")

    async def act(_: Shown) -> None:
        await send(cable["b"], [b"x"])

    _, kept = await listening(cable["a"], wanted(TO, interfaces=("uplink-of-the-house",), count=1), act)
    assert kept.of(Waiting) == []
    assert [each.interface for each in kept.of(FlowTotal)] == ["en0"]


async def test_a_refused_join_names_interface_and_reason(either: Network) -> None:
    either["a"].set_sysctl("net.ipv4.igmp_max_memberships", 1)

    async def act(_: Shown) -> None:
        await trio.lowlevel.checkpoint()

    _, kept = await listening(either["a"], wanted(TO), act, interrupt=True)
    (refused,) = kept.of(Refused)
    assert (refused.group, refused.interface) == (TO, "en1")
    assert "igmp_max_memberships" in refused.text()
    assert kept.of(Started)[0].interfaces == ("en0",)


@pytest.mark.parametrize("count", [1, 100])
async def test_a_full_disk_ends_it_with_the_summary_and_the_file_s_name(count: int, either: Network) -> None:
    async def act(_: Shown) -> None:
        await send(either["b"], [bytes(1000)] * count)

    kept, refusals = Shown(), []

    async def run() -> None:
        what = wanted(TO, pcap=Path("/dev/full"), every=0.05, seconds=30)
        with pytest.raises(OSError, match="can't write to /dev/full: No space left on device") as refusal:
            await either["a"].run(functools.partial(session.listen, kept, what))
        refusals.append(refusal.value.errno)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await kept.wait_for(Started)
        await act(kept)
    assert refusals == [errno.ENOSPC]
    assert kept.of(Summary)[0].seconds < 30
    assert no_groups(either["a"])


async def test_a_capture_can_be_read_while_it_grows(tmp_path: Path, either: Network, eventually: Eventually) -> None:
    path = tmp_path / "heard.pcap"

    async def act(_: Shown) -> None:
        assert list(read_capture(path)) == []
        await send(either["b"], [b"one", b"two"])
        await eventually(lambda: [each.packet[28:] for each in read_capture(path)] == [b"one", b"two"])

    await listening(either["a"], wanted(TO, pcap=path, every=0.05), act, interrupt=True)


# Silence, and the exit status


async def test_without_any_interface_it_waits_and_says_so(autojump_clock: trio.testing.MockClock) -> None:
    with simulate() as net:
        host = net.host("a")

        async def act(_: Shown) -> None:
            await trio.lowlevel.checkpoint()

        status, kept = await listening(host, wanted(TO, f"{OTHER}:1", seconds=4), act)
        assert status == 1
        assert kept.of(Waiting)[0].text().startswith("No interface is up and supports multicast.")
        (nothing,) = kept.of(Nothing)
        assert nothing.groups == (TO, f"{OTHER}:1")
        assert nothing.doctor == tuple(f"trio-ipv4 doctor {group}" for group in nothing.groups)
        assert kept.of(Summary)[0].missed == (TO, f"{OTHER}:1")


async def test_silence_names_the_doctor_s_commands(autojump_clock: trio.testing.MockClock) -> None:
    with simulated(links=2) as net:

        async def act(_: Shown) -> None:
            await trio.lowlevel.checkpoint()

        async def told(*to: str, **options: Any) -> tuple[str, ...]:
            _, kept = await listening(net["a"], wanted(*to, seconds=4, **options), act)
            (nothing,) = kept.of(Nothing)
            return nothing.doctor

        doctor, names = "trio-ipv4 doctor", ("en0", "en1")
        assert await told(TO, OTHER) == (
            *(f"{doctor} {TO} --interface {name}" for name in names),
            *(f"{doctor} {OTHER}:PORT --interface {name}" for name in names),
        )
        only = SourceFilter.include("198.18.0.9", "198.18.0.2")
        asking = await told(TO, interfaces=("en1",), sources=only)
        assert asking == (f"{doctor} {TO} --interface en1 --source 198.18.0.2",)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1),
        ({"expect": 0}, 0),
        ({"expect": 3}, 1),
        ({"count": 6, "expect": 0}, 1),
        ({"count": 5, "expect": 0}, 0),
    ],
)
async def test_the_status_says_whether_each_group_delivered(
    options: dict[str, int], expected: int, autojump_clock: trio.testing.MockClock
) -> None:
    with simulated() as net:

        async def act(_: Shown) -> None:
            await send(net["b"], [b"x"] * 5)

        status, kept = await listening(net["a"], wanted(TO, f"{OTHER}:5000", seconds=4, **options), act)
        assert status == expected
        assert [each.groups for each in kept.of(Nothing)] == ([(f"{OTHER}:5000",)] if options.get("count") != 5 else [])
        assert no_groups(net["a"])


# Ports


async def test_a_group_without_a_port_is_heard_on_every_port(either: Network) -> None:
    async def act(_: Shown) -> None:
        await send(either["b"], probes([0, 1, 3]), to=f"{GROUP}:5000")
        await send(either["b"], [b"abc", b""], to=f"{GROUP}:6000")
        await send(either["b"], [b"x"], to=f"{OTHER}:6000")

    status, kept = await listening(either["a"], wanted(GROUP, count=5, printed_as="text"), act)
    assert status == 0
    found = [(each.port, each.datagrams, each.octets, each.lost) for each in kept.of(FlowTotal)]
    assert found == [(5000, 3, 300, 1), (6000, 2, 3, None)]
    assert [each.payload for each in kept.of(DatagramShown)][3:] == [b"abc", b""]


async def test_what_has_no_udp_header_is_no_datagram(either: Network) -> None:
    async def act(_: Shown) -> None:
        async with either["b"].call(functools.partial(open_ip, 17)) as conn:
            conn.multicast_interface = "en0"
            for octets in (b"short", bytes.fromhex("0001138800050000"), bytes.fromhex("0001138800ff0000")):
                await conn.send_to(octets, (GROUP, 0))
            await conn.send_to(bytes.fromhex("00011388000a0000") + b"yes, and more", (GROUP, 0))

    _, kept = await listening(either["a"], wanted(GROUP, count=1, printed_as="text"), act)
    assert [(each.source_port, each.port, each.payload) for each in kept.of(DatagramShown)] == [(1, 5000, b"ye")]


async def test_without_privilege_a_port_is_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    with simulate() as net:
        host = net.host("a", privileged=False)
        with pytest.raises(PermissionError, match=r"239\.1\.2\.3:5000, or run as root"):
            await host.run(functools.partial(session.listen, Shown(), wanted(GROUP)))


async def test_unicast_to_the_port_stays_with_the_program_that_has_it(cable: Lab) -> None:
    async with cable["a"].call(open_udp, "0.0.0.0", 5000, share_port=True) as program:

        async def act(_: Shown) -> None:
            await send(cable["b"], [b"for the program"], to="198.18.0.1:5000")
            with trio.fail_after(20):
                assert (await program.receive()).payload == b"for the program"
            await send(cable["b"], [b"for all"])

        _, kept = await listening(cable["a"], wanted(TO, count=1, printed_as="text"), act)
    assert [each.payload for each in kept.of(DatagramShown)] == [b"for all"]


# The receive buffer


async def test_a_buffer_that_the_kernel_caps_warns_only_if_it_was_asked_for() -> None:
    with simulate() as net:
        host = net.host("a", privileged=False)

        async def act(_: Shown) -> None:
            await trio.lowlevel.checkpoint()

        _, kept = await listening(host, wanted(TO), act, interrupt=True)
        assert kept.of(Started)[0].buffer_octets < receivers.DEFAULT_BUFFER
        with pytest.warns(CappedBufferWarning, match="rmem_max"):
            await listening(host, wanted(TO, buffer=1 << 29), act, interrupt=True)


async def test_drops_are_told_of_while_it_runs(cable: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers.Receiver, "run", sleep_instead)

    async def act(kept: Shown) -> None:
        await send(cable["b"], [bytes(1000)] * 100)
        await kept.wait_for(Dropped)

    _, kept = await listening(cable["a"], wanted(TO, buffer=20_000, every=0.05), act, interrupt=True)
    dropped = sum(each.datagrams for each in kept.of(Dropped))
    assert kept.of(Summary)[0].datagrams + dropped == 100
    assert "--buffer" in kept.of(Dropped)[0].text()
    assert kept.of(Dropped)[0].style()


async def test_an_impossible_buffer_leaves_no_socket_behind(cable: Lab) -> None:
    def sockets() -> str:
        return cable["a"].call(Path("/proc/thread-self/net/udp").read_text)

    before = sockets()
    with pytest.raises(ValueError, match="receive_buffer_size"):
        await cable["a"].run(functools.partial(session.listen, Shown(), wanted(TO, buffer=1 << 40)))
    assert sockets() == before
