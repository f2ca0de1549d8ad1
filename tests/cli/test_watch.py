"""`trio-ipv4 watch` on the wire of a lab, without privilege, and as a command."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from support.igmp_script import ALL_ROUTERS, ALL_SYSTEMS, Speaker, make_hub, packet
from support.records import Kept
from trio_ipv4 import (
    Header,
    IGMPLeave,
    IGMPQuery,
    IGMPv2Report,
    RawDatagram,
    SourceFilter,
    UnsupportedError,
    _cli,
    interface_by_name,
    open_ip,
    open_raw,
    open_udp,
)
from trio_ipv4._cli import packet_socket
from trio_ipv4._cli.capture import CaptureWriter
from trio_ipv4._cli.ends import Status
from trio_ipv4._cli.kernel_tables import read_memberships
from trio_ipv4._cli.watch import commands, live, replay, wire
from trio_ipv4._cli.watch.show import Options
from trio_ipv4.testing import igmp_groups

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from conftest import AsNobody, Eventually
    from trio_ipv4 import IGMPMessage
    from trio_ipv4.testing import Lab, LabHost

GENERAL = IGMPQuery(robustness=2, query_interval=125)
COMMAND = [sys.executable, "-m", "trio_ipv4", "watch"]
GROUP, SPECIFIC, SOURCE = "239.1.2.3", "232.1.2.3", "198.18.9.1"
DEADLINE = 60
"""Seconds: no measure of anything, but an end."""
PLAIN = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "FORCE_COLOR", "NO_COLOR"}}


class Told(Kept):
    """What was shown."""

    def of(self, event: str) -> list[Any]:
        return [each for each in self.records if each.event == event]

    def members(self, group: str = GROUP) -> list[str]:
        return [each.change for each in self.of("member") if str(each.group) == group]


@contextlib.asynccontextmanager
async def watching(host: LabHost, eventually: Eventually, **options: Any) -> AsyncIterator[Told]:
    """Watch on a host while the block runs."""
    told = Told()
    main = functools.partial(live.main, told, Options(**options), wire=functools.partial(host.call, wire.open_wire))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run, main)
        await eventually(lambda: told.of("watching"))
        yield told
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def speaker(host: LabHost) -> AsyncIterator[Speaker]:
    speaks = Speaker(host)
    try:
        yield speaks
    finally:
        await speaks.close()


@pytest.fixture
def hub(lab: Lab) -> Lab:
    """Two hosts that hear each other's reports."""
    make_hub(lab)
    return lab


# The wire


async def test_joins_and_leaves_of_both_hosts_are_heard(hub: Lab, eventually: Eventually) -> None:
    a, b = (str(hub[name].addresses[0]) for name in "ab")
    async with (
        watching(hub["a"], eventually) as told,
        hub["a"].call(open_udp) as here,
        hub["b"].call(open_udp) as there,
    ):
        async with here.joined("en0", GROUP):
            await eventually(lambda: told.members() == ["first"])
            async with there.joined("en0", GROUP):
                await eventually(lambda: told.members() == ["first", "joined"])
            await eventually(lambda: told.members() == ["first", "joined", "left"])
        await eventually(lambda: told.members()[3:] == ["left", "last"])
    hosts = [each.host for each in told.of("member") if str(each.group) == GROUP]
    assert hosts == [a, b, b, a, None]
    reports = [each for each in told.of("report") if str(each.group) == GROUP]
    assert {(str(each.sender), each.outgoing) for each in reports} == {(a, True), (b, False)}
    assert {each.interface for each in reports} == {"en0"}
    assert abs(reports[0].timestamp_ns / 1e9 - time.time()) < DEADLINE


async def test_own_messages_come_once_also_where_they_are_looped_back(hub: Lab, eventually: Eventually) -> None:
    async with (
        watching(hub["a"], eventually) as told,
        hub["a"].call(open_ip, 2) as loop,
        loop.joined("en0", GROUP),
        speaker(hub["a"]) as own,
    ):
        for number in range(5):
            await own.say(IGMPv2Report(f"239.7.7.{number}").marshal(), GROUP)
            assert (await loop.receive()).payload == IGMPv2Report(f"239.7.7.{number}").marshal()
        await eventually(lambda: told.members("239.7.7.4"))
    assert [str(each.group) for each in told.of("report") if each.version == 2] == [f"239.7.7.{n}" for n in range(5)]


async def test_what_is_sent_on_loopback_comes_once(hub: Lab, eventually: Eventually) -> None:
    async with watching(hub["a"], eventually, interfaces=("lo",)) as told, hub["a"].call(open_raw, 2) as own:
        own.multicast_interface = "lo"
        for group in (GROUP, "239.7.7.7"):
            header = Header.parse(packet(IGMPv2Report(group), "127.0.0.1", dst=group))
            await own.send(RawDatagram(header, IGMPv2Report(group).marshal()))
        await eventually(lambda: told.members("239.7.7.7"))
    assert [(str(each.group), each.outgoing) for each in told.of("report")] == [(GROUP, False), ("239.7.7.7", False)]


async def test_all_multicast_is_received_while_it_watches_and_nothing_is_promiscuous(
    hub: Lab, eventually: Eventually
) -> None:
    def counts() -> tuple[int, int]:
        (link,) = json.loads(hub["a"].ip("-details", "-json", "link", "show", "en0"))
        return link["allmulti"], link["promiscuity"]

    before = counts()
    async with watching(hub["a"], eventually, changes=True) as told:
        await eventually(lambda: told.of("interface_change"))
        assert counts() == (before[0] + 1, before[1])
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert [each.change for each in told.of("interface_change") if each.interface == "en0"] == ["added"]
    assert counts() == before


async def test_ports_of_bridges_and_loopback_are_not_watched(hub: Lab, eventually: Eventually) -> None:
    a = hub["a"]
    a.ip("link", "add", "br0", "type", "bridge")
    a.ip("link", "add", "port", "type", "veth", "peer", "name", "end")
    a.ip("link", "set", "port", "master", "br0")
    for name in ("br0", "port", "end"):
        a.ip("link", "set", name, "up")
    a.ip("address", "add", "198.18.7.1/24", "dev", "end")
    async with watching(a, eventually) as told:
        assert set(told.of("watching")[0].interfaces) == {"en0", "br0", "end"}
        async with a.call(open_udp) as conn, conn.joined("end", GROUP):
            await eventually(lambda: len([each for each in told.of("report") if str(each.group) == GROUP]) >= 2)
        first = [each.message for each in told.of("report") if str(each.group) == GROUP][:2]
    both = [(each.interface, each.outgoing) for each in told.of("report") if each.message in first]
    assert sorted(both) == [("br0", False), ("end", True)]
    async with watching(a, eventually, interfaces=("port",)) as told:
        assert told.of("watching")[0].interfaces == ("port",)


async def test_what_belongs_to_a_vlan_does_not_show_on_the_interface_below(hub: Lab, eventually: Eventually) -> None:
    def send(*frames: bytes) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("en0", 0))
            for frame in frames:
                raw.send(frame)

    def frame(group: str, tag: bytes) -> bytes:
        addresses = b"\x01\x00\x5e\x01\x02\x03" + b"\x02\0\0\0\0\1"
        return addresses + tag + b"\x08\x00" + packet(IGMPv2Report(group), "198.18.0.77")

    # Of IEEE 802.1Q: VLAN 7 with a priority, no VLAN with a priority, no tag.
    tagged = frame("239.7.7.1", b"\x81\x00\x60\x07")
    others = frame("239.7.7.2", b"\x81\x00\x60\x00"), frame("239.7.7.3", b"")
    async with watching(hub["a"], eventually) as told:
        hub["b"].call(send, tagged, *others)
        await eventually(lambda: told.members("239.7.7.3"))
    assert [str(each.group) for each in told.of("report") if each.version == 2] == ["239.7.7.2", "239.7.7.3"]


async def test_interfaces_are_followed(hub: Lab, eventually: Eventually) -> None:
    a, b = hub["a"], hub["b"]
    b.attach(0, "en1", "198.18.3.2/24")
    async with watching(a, eventually, changes=True) as told, b.call(open_udp) as conn, conn.joined("en1", GROUP):
        a.attach(0, "en1", "198.18.3.1/24")
        await eventually(lambda: any(each.interface == "en1" and each.up for each in told.of("interface_change")))
        async with conn.joined("en1", SPECIFIC, sources=SourceFilter.include(SOURCE)):
            await eventually(
                lambda: [e for e in told.of("member") if e.interface == "en1" and str(e.group) == SPECIFIC]
            )
        a.rename("en1", "en2")
        await eventually(lambda: any(each.interface == "en2" for each in told.of("interface_change")))
        a.detach("en2")
        await eventually(lambda: any(each.change == "removed" for each in told.of("interface_change")))
    gone = [each for each in told.of("member") if each.reason == "interface"]
    assert {each.interface for each in gone} >= {"en1"}
    removed = [each for each in told.of("interface_change") if each.change == "removed"]
    assert removed[0].words() == "interface removed"


async def test_only_the_interfaces_and_groups_that_are_asked_for_are_shown(hub: Lab, eventually: Eventually) -> None:
    a, b = hub["a"], hub["b"]
    a.attach(0, "en1", "198.18.3.1/24")
    only: dict[str, Any] = {"interfaces": ("en1",), "groups": frozenset({IGMPv2Report(GROUP).group}), "changes": True}
    async with watching(a, eventually, **only) as told, speaker(b) as other:
        await other.say(IGMPv2Report("239.9.9.9").marshal(), "239.9.9.9")
        await other.say(IGMPQuery().marshal(), ALL_SYSTEMS)
        await other.say(IGMPv2Report(GROUP).marshal(), GROUP)
        await eventually(told.members)
    assert {each.interface for each in told.records if hasattr(each, "interface")} == {"en1"}
    assert {str(each.group) for each in told.of("report")} == {GROUP}
    assert told.of("query")


async def test_packets_that_came_too_fast_are_counted(hub: Lab) -> None:
    opened = hub["a"].call(wire.open_wire)
    with opened:
        opened._socket.setsockopt(1, 8, 1)  # SOL_SOCKET, SO_RCVBUF: the least.
        async with speaker(hub["a"]) as own:
            for _ in range(100):
                await own.say(IGMPv2Report(GROUP).marshal(), GROUP)
        first = opened.dropped()
        assert first > 50
        assert opened.dropped() >= first  # The kernel begins anew with each look.


async def test_a_burst_is_heard_or_counted_as_dropped(
    hub: Lab, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, a, number = Told(), hub["a"], 30_000
    # More than the buffer holds, and the watcher has no turn while they come.
    monkeypatch.setattr(live, "TELL_DROPS", 0.05)
    opened: list[wire.Wire] = []

    def open_wire() -> wire.Wire:
        opened.append(a.call(wire.open_wire))
        return opened[0]

    main = functools.partial(live.main, told, Options(), wire=open_wire)
    async with speaker(a) as own, trio.open_nursery() as nursery:

        async def burst() -> None:
            await eventually(lambda: told.of("watching"))
            send_many(a, number)
            await eventually(lambda: told.of("dropped"))
            send_many(a, 1500)  # There is room for these, and the end comes at once.
            signal.raise_signal(signal.SIGINT)

        nursery.start_soon(burst)
        assert await a.run(main) == Status.INTERRUPTED
        await own.say(b"", GROUP)
    mine = [each for each in told.of("report") if str(each.group) == "239.7.7.7"]
    summary = told.records[-1]
    assert summary.dropped > 0
    # None of ours is missing. What was dropped may have been a message of the switch, too, which sends a few.
    assert 0 <= len(mine) + summary.dropped - (number + 1500) <= 5
    assert told.of("dropped")[-1].total <= summary.dropped


async def test_a_burst_of_a_whole_network_s_reports_is_heard(hub: Lab, eventually: Eventually) -> None:
    async with watching(hub["a"], eventually) as told:
        send_many(hub["a"], 1500)
        await eventually(lambda: len([each for each in told.of("report") if str(each.group) == "239.7.7.7"]) == 1500)


def send_many(host: LabHost, number: int) -> None:
    """Send as many reports, without a pause."""
    octets = packet(IGMPv2Report("239.7.7.7"), str(host.addresses[0]), dst="239.7.7.7")
    with host.call(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, host.addresses[0].packed)
        for _ in range(number):
            raw.sendto(octets, ("239.7.7.7", 0))


async def test_an_interface_can_have_an_alternative_name(hub: Lab, eventually: Eventually) -> None:
    hub["a"].ip("link", "property", "add", "dev", "en0", "altname", "alternative0")
    options: dict[str, Any] = {"interfaces": ("alternative0",), "changes": True}
    async with watching(hub["a"], eventually, **options) as told, speaker(hub["b"]) as other:
        assert told.of("watching")[0].interfaces == ("en0",)
        await other.say(IGMPv2Report(GROUP).marshal(), GROUP)
        await eventually(told.members)
        await eventually(lambda: told.of("interface_change"))
    assert {each.interface for each in told.of("interface_change")} == {"en0"}


async def test_only_igmp_comes_by_the_wire(hub: Lab) -> None:
    with hub["a"].call(wire.open_wire) as opened:
        async with hub["a"].call(open_udp) as conn, speaker(hub["a"]) as own:
            await conn.send_to(b"no IGMP", (str(hub["b"].addresses[0]), 9))
            await own.say(IGMPLeave(GROUP).marshal(), ALL_ROUTERS)
            own_address = hub["a"].addresses[0].packed
            with trio.fail_after(DEADLINE):  # The switch speaks, too.
                while (heard := await opened.hear()).packet[12:16] != own_address:
                    assert heard.packet[9] == 2
    assert heard.packet[9] == 2
    assert (heard.interface, heard.outgoing) == ("en0", True)


async def test_a_querier_that_falls_silent_is_told_by_the_clock(hub: Lab, eventually: Eventually) -> None:
    async with watching(hub["a"], eventually) as told, speaker(hub["b"]) as router:
        await router.say(IGMPQuery(robustness=1, query_interval=1, max_response_time=0.2).marshal(), ALL_SYSTEMS)
        await eventually(lambda: [each.change for each in told.of("querier")] == ["elected", "silent"])
    elected, silent = told.of("querier")
    assert silent.silent_seconds == pytest.approx(1.1)
    assert silent.timestamp_ns - elected.timestamp_ns == 1_100_000_000


async def test_it_ends_with_the_state_and_the_summary(hub: Lab, eventually: Eventually) -> None:
    told, a = Told(), hub["a"]
    options = Options(seconds=1.5)
    main = functools.partial(live.main, told, options, wire=functools.partial(a.call, wire.open_wire))
    async with speaker(hub["b"]) as other, trio.open_nursery() as nursery:

        async def speak() -> None:
            await eventually(lambda: told.of("watching"))
            await other.say(IGMPQuery(query_interval=60).marshal(), ALL_SYSTEMS)
            await other.say(IGMPv2Report(GROUP).marshal(), GROUP)
            await other.say(b"\x16", GROUP)

        nursery.start_soon(speak)
        assert await a.run(main) == Status.DONE
    address = hub["b"].addresses[0]
    (querier,) = told.of("querier_state")
    assert (querier.interface, querier.address, querier.query_interval_seconds) == ("en0", address, 60)
    (member,) = [each for each in told.of("member_state") if str(each.group) == GROUP]
    assert (member.host, member.version, member.mode) == (str(address), 2, "exclude")
    assert 0 < member.silent_seconds < DEADLINE
    summary = told.records[-1]
    assert (summary.event, summary.malformed, summary.dropped) == ("summary", 1, 0)
    assert summary.messages >= 3
    assert 1.5 <= summary.seconds < DEADLINE


async def test_the_state_at_the_end_is_what_the_other_host_s_kernel_says(hub: Lab, eventually: Eventually) -> None:
    told, a, b = Told(), hub["a"], hub["b"]
    main = functools.partial(live.main, told, Options(seconds=4), wire=functools.partial(a.call, wire.open_wire))
    async with b.call(open_udp) as conn, trio.open_nursery() as nursery:

        async def change() -> None:
            await eventually(lambda: told.of("watching"))
            for number in range(1, 4):
                conn.join_group("en0", f"239.1.2.{number}")
            await eventually(lambda: told.members("239.1.2.3"))
            conn.leave_group("en0", "239.1.2.1")
            for sources in (["198.18.9.1", "198.18.9.2"], ["198.18.9.2", "198.18.9.3"], ["198.18.9.3"]):
                conn.set_source_filter("en0", SPECIFIC, SourceFilter.include(*sources))
                await trio.sleep(0.1)
            conn.set_source_filter("en0", "239.1.2.2", SourceFilter.exclude("198.18.9.7"))

        nursery.start_soon(change)
        assert await a.run(main) == Status.DONE
        kernel = {each.group: (each.mode, each.sources) for each in b.call(read_memberships) if each.interface == "en0"}
    del kernel[ALL_SYSTEMS]
    states = [each for each in told.of("member_state") if each.host == str(b.addresses[0])]
    assert {str(each.group): (each.mode, tuple(map(str, each.sources))) for each in states} == kernel
    assert len(kernel) == 3


@pytest.mark.parametrize("asked", [True, False])
async def test_until_querier_says_whether_there_is_one(asked: bool, hub: Lab, eventually: Eventually) -> None:
    told, a = Told(), hub["a"]
    options = Options(until_querier=True, seconds=20 if asked else 0.3)
    main = functools.partial(live.main, told, options, wire=functools.partial(a.call, wire.open_wire))
    async with speaker(hub["b"]) as router, trio.open_nursery() as nursery:

        async def ask() -> None:
            await eventually(lambda: told.of("watching"))
            await router.say(IGMPQuery().marshal(), ALL_SYSTEMS)

        if asked:
            nursery.start_soon(ask)
        assert await a.run(main) == (Status.DONE if asked else Status.NEGATIVE)
    assert told.records[-1].seconds < 20
    assert len(told.of("unsure")) == (not asked)


async def test_an_interface_that_is_not_there_is_an_error(hub: Lab) -> None:
    with pytest.raises(OSError, match="nothing0"):
        await hub["a"].run(live.main, Told(), Options(interfaces=("nothing0",)))


async def test_a_named_interface_that_is_down_is_told(hub: Lab, eventually: Eventually) -> None:
    hub["a"].set_up("en0", up=False)
    async with watching(hub["a"], eventually, interfaces=("en0", "lo")) as told:
        await eventually(lambda: told.of("not_up"))
    assert [each.text() for each in told.of("not_up")] == ["en0: not up yet. It is watched when it comes up."]


async def test_interfaces_that_are_down_are_waited_for(hub: Lab, eventually: Eventually) -> None:
    hub["a"].set_up("en0", up=False)
    async with watching(hub["a"], eventually) as told, speaker(hub["b"]) as other:
        assert told.of("watching")[0].interfaces == ()
        assert "no interface yet" in told.of("watching")[0].text()
        assert told.of("not_up") == []
        hub["a"].set_up("en0")

        async def heard() -> bool:
            await other.say(IGMPv2Report(GROUP).marshal(), GROUP)
            return bool(told.members())

        with trio.fail_after(DEADLINE):
            while not await heard():  # noqa: ASYNC110  # Nobody tells when a port of the switch forwards.
                await trio.sleep(0.05)


# Commands


async def test_a_command_runs_for_the_first_and_the_last_member(
    hub: Lab, eventually: Eventually, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    script = f'echo "$EVENT $GROUP $INTERFACE $HOST $SOURCE." >> {log}'
    only = frozenset({IGMPv2Report(GROUP).group, IGMPv2Report(SPECIFIC).group})
    async with (
        watching(hub["a"], eventually, command=("sh", "-c", script), groups=only),
        speaker(hub["b"]) as other,
        hub["b"].call(open_udp) as conn,
    ):
        async with conn.joined("en0", SPECIFIC, sources=SourceFilter.include(SOURCE)):
            await eventually(lambda: log.exists() and SPECIFIC in log.read_text())
            await other.say(IGMPv2Report("239.9.9.9").marshal(), "239.9.9.9")
            await other.say(IGMPv2Report(GROUP).marshal(), GROUP)
            await other.say(IGMPLeave(GROUP).marshal(), ALL_ROUTERS)
            await eventually(lambda: len(log.read_text().splitlines()) >= 3)
        await eventually(lambda: len(log.read_text().splitlines()) == 4)
    host = hub["b"].addresses[0]
    assert log.read_text().splitlines() == [
        f"first {SPECIFIC} en0 {host} {SOURCE}.",
        f"first {GROUP} en0 {host} .",
        f"last {GROUP} en0  .",
        f"last {SPECIFIC} en0  .",
    ]


async def test_what_a_command_has_started_ends_with_it(hub: Lab, eventually: Eventually, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = ("sh", "-c", f"sleep 1000 & echo $! >> {log}; [ $GROUP = {GROUP} ] || wait")
    async with watching(hub["a"], eventually, command=command), speaker(hub["b"]) as other:
        for group in (GROUP, "239.9.9.9"):
            await other.say(IGMPv2Report(group).marshal(), group)
        await eventually(lambda: log.exists() and len(log.read_text().splitlines()) >= 2)
        first = int(log.read_text().split()[0])
        assert not is_running(first)  # The second waits for the end of the first.
    assert not any(is_running(int(each)) for each in log.read_text().split())


async def test_a_command_that_does_not_want_to_end_is_killed_and_told(
    hub: Lab, eventually: Eventually, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "GRACE", 0.2)
    log = tmp_path / "log"
    command = ("sh", "-c", f"trap '' TERM; echo $$ > {log}; while :; do sleep 1000; done")
    async with watching(hub["a"], eventually, command=command) as told, speaker(hub["b"]) as other:
        await other.say(IGMPv2Report(GROUP).marshal(), GROUP)
        await eventually(lambda: log.exists() and log.read_text())
    assert not is_running(int(log.read_text()))
    assert told.of("command")[-1].failure == "did not end within 0.2 s of SIGTERM, and was killed"


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # Empty: ended, and not yet reaped.
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("command", "failure"),
    [(("sh", "-c", "exit 3"), "failed, with the status 3"), (("/nowhere/program",), "can't be run: ")],
)
async def test_a_command_that_fails_is_told(
    command: tuple[str, ...], failure: str, hub: Lab, eventually: Eventually
) -> None:
    async with watching(hub["a"], eventually, command=command) as told, speaker(hub["b"]) as other:
        await other.say(IGMPv2Report(GROUP).marshal(), GROUP)
        await other.say(IGMPv2Report("239.9.9.9").marshal(), "239.9.9.9")
        await eventually(lambda: len(told.of("command")) >= 2)
        assert told.members("239.9.9.9") == ["first"]
    assert failure in told.of("command")[0].text()


async def test_a_command_that_runs_is_ended_with_the_watch(hub: Lab, eventually: Eventually, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = ("sh", "-c", f"echo $$ > {pid}.new && mv {pid}.new {pid} && exec sleep 1000")
    async with watching(hub["a"], eventually, command=command), speaker(hub["b"]) as other:
        await other.say(IGMPv2Report(GROUP).marshal(), GROUP)
        await eventually(pid.exists)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


async def test_commands_that_wait_are_bounded(
    hub: Lab, eventually: Eventually, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "WAITING", 2)
    gate = tmp_path / "gate"
    script = f"while [ ! -e {gate} ]; do sleep 0.02; done; echo $GROUP >> {tmp_path}/log"
    async with watching(hub["a"], eventually, command=("sh", "-c", script)) as told, speaker(hub["b"]) as other:
        for number in range(10):
            await other.say(IGMPv2Report(f"239.7.7.{number}").marshal(), f"239.7.7.{number}")
        await eventually(lambda: told.members("239.7.7.9"))
        (full,) = told.of("command")
        assert "2 are waiting" in full.text()
        gate.touch()
        log = tmp_path / "log"
        await eventually(lambda: log.exists() and len(log.read_text().splitlines()) >= 2)
        lines = log.read_text().splitlines()
    assert lines == [f"239.7.7.{number}" for number in range(len(lines))]


# Without privilege


def refused() -> wire.Wire:
    raise PermissionError(1, "Operation not permitted")


async def test_without_the_privilege_own_memberships_are_watched(
    lab: Lab, eventually: Eventually, tmp_path: Path
) -> None:
    told, a, log = Told(), lab["a"], tmp_path / "log"
    options = Options(seconds=20, changes=True, command=("sh", "-c", f"echo $EVENT $GROUP $SOURCE >> {log}"))
    main = functools.partial(
        live.main, told, options, wire=refused, memberships=functools.partial(a.call, read_memberships)
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.run, main)
        async with a.call(open_udp) as conn:
            async with conn.joined("en0", GROUP), conn.joined("en0", SPECIFIC, sources=SourceFilter.include(SOURCE)):
                await eventually(lambda: told.members() and told.members(SPECIFIC))
                await eventually(lambda: log.exists() and len(log.read_text().splitlines()) == 2)
            await eventually(lambda: told.members() == ["first", "last"] == told.members(SPECIFIC))
            await eventually(lambda: len(log.read_text().splitlines()) == 4)
        nursery.cancel_scope.cancel()
    assert "Hearing IGMP on the wire needs CAP_NET_RAW." in told.of("watching")[0].text()
    assert {each.host for each in told.of("member")} == {"this host"}
    assert f"first {SPECIFIC} {SOURCE}" in log.read_text()
    assert [each.interface for each in told.of("interface_change")] == ["lo", "en0"]


async def test_without_the_privilege_the_state_is_the_kernel_s(lab: Lab) -> None:
    told, a = Told(), lab["a"]
    async with a.call(open_udp) as conn, conn.joined("en0", GROUP), conn.joined(a.call(interface_by_name, "lo"), GROUP):
        options = Options(seconds=0.1, interfaces=("lo",))
        memberships = functools.partial(a.call, read_memberships)
        main = functools.partial(live.main, told, options, wire=refused, memberships=memberships)
        assert await a.run(main) == Status.DONE
    (state,) = told.of("member_state")
    assert (state.interface, str(state.group), state.host, state.mode) == ("lo", GROUP, "this host", "exclude")
    assert (told.records[-1].groups, told.records[-1].members) == (1, 1)


async def test_until_querier_takes_the_privilege() -> None:
    with pytest.raises(PermissionError, match="CAP_NET_RAW"):
        await live.main(Told(), Options(until_querier=True), wire=refused)


@pytest.mark.parametrize(
    ("option", "status", "words"),
    [
        (
            ["--for", "100ms"],
            Status.DONE,
            "Hearing IGMP on the wire needs CAP_NET_RAW. Only this host's own memberships are watched.",
        ),
        (["--until-querier"], Status.FAILED, "--until-querier needs CAP_NET_RAW. Run as root, or give it to Python:"),
    ],
)
@pytest.mark.usefixtures("needs_lab")
def test_a_user_without_privilege_gets_told_what_is_missing(
    option: list[str], status: int, words: str, as_nobody: AsNobody
) -> None:
    argv = as_nobody([*COMMAND, *option])
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert done.returncode == status
    assert words in done.stderr
    assert done.stdout.startswith(
        "Messages: not heard (CAP_NET_RAW). This host is a member of 0 groups." if status == Status.DONE else ""
    )


# The socket


async def test_a_packet_without_a_time_gets_the_one_at_which_it_is_read(hub: Lab) -> None:
    with hub["a"].call(wire.open_wire) as opened:
        opened._socket.setsockopt(socket.SOL_SOCKET, 35, 0)  # SO_TIMESTAMPNS
        async with speaker(hub["a"]) as own:
            await own.say(IGMPv2Report(GROUP).marshal(), GROUP)
        before = time.time_ns()
        heard = await opened.hear()
    assert before <= heard.timestamp_ns <= time.time_ns()


def test_a_socket_that_can_t_be_set_up_is_closed(hub: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    real = socket.socket

    def make(*arguments: int) -> socket.socket:
        made.append(real(*arguments))
        return made[-1]

    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(socket, "socket", make)
    monkeypatch.setattr(packet_socket, "_attach", refuse)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        hub["a"].call(wire.open_wire)
    assert made[0].fileno() == -1


# The clock


@pytest.mark.pure
def test_when_the_clock_is_set_its_times_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"real": 1_000_000_000_000, "boot": 5_000_000_000}
    monkeypatch.setattr(time, "time_ns", lambda: now["real"])
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _: now["boot"])
    clock = wire.Clock()
    assert clock.now() == now["real"]
    now["real"] += 7_000_000_001
    now["boot"] += 7_000_000_000
    assert clock.look() is None
    assert clock.steady(now["real"]) == now["real"]
    now["real"] += 3_600_000_000_000
    assert clock.look() == pytest.approx(3600)
    assert clock.look() is None
    assert clock.now() == pytest.approx(1_007_000_000_000, abs=10)
    now["real"] -= 3_600_000_000_000
    assert clock.look() == pytest.approx(-3600)


async def test_that_the_clock_was_set_is_told(
    hub: Lab, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(hub["a"], eventually) as told, speaker(hub["b"]) as other:
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + 3_600_000_000_000)
        # The packet is the first thing that happens. The kernel's stamps are not changed.
        await other.say(IGMPv2Report(GROUP).marshal(), GROUP)
        await eventually(told.members)
        await other.say(IGMPv2Report(GROUP).marshal(), GROUP)
        await eventually(lambda: told.of("clock"))
    assert "set by +3600" in told.of("clock")[0].text()


@pytest.mark.pure
def test_elsewhere_than_on_linux_there_is_no_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UnsupportedError, match="AF_PACKET is not available on darwin"):
        wire.open_wire()


# As a command


@pytest.fixture
def veth(needs_lab: None) -> str:
    """An interface in the test's own network."""
    for argv in (
        "link add en0 type veth peer name en1",
        "address add 198.18.0.1/24 dev en0",
        "link set en0 up",
        "link set en1 up",
    ):
        subprocess.run(["ip", *argv.split()], check=True)
    return "en0"


OLDER = f"reports {GROUP} by version 2, beside version 3: sources do not count for this group"


def capture_of(path: Path) -> Path:
    """Write down a query, a report, a malformed message, and a leave."""
    with CaptureWriter(path) as writer:
        messages: tuple[IGMPMessage | bytes, ...] = (GENERAL, IGMPv2Report(GROUP), b"\x16", IGMPLeave(GROUP))
        for number, message in enumerate(messages):
            writer.write((1_000_000_000 + number) * 10**9, packet(message, "198.18.0.7"))
    return path


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    settings: dict[str, Any] = {"env": {**PLAIN, "TZ": "UTC"}, **options}
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=DEADLINE, **settings
    )


@pytest.mark.pure
def test_a_capture_is_read_without_privilege_and_told_a_line_each(tmp_path: Path) -> None:
    done = run("--read", str(capture_of(tmp_path / "some.pcap")))
    assert done.returncode == 0
    assert done.stderr == "Reading a capture: the times are those of the file.\n"
    assert done.stdout.splitlines() == [
        "01:46:40.000  -         198.18.0.7       general query v3, max response 10 s, QRV 2, interval 125 s",
        "01:46:40.000  -         198.18.0.7       is the querier (version 3)",
        f"01:46:41.000  -         198.18.0.7       wants {GROUP} from everybody (v2 report)",
        f"01:46:41.000  -         198.18.0.7       is the first member heard of {GROUP}",
        f"01:46:41.000  -         198.18.0.7       {OLDER}",
        "01:46:42.000  -         198.18.0.7       malformed: the message has 8 octets at least, got 1 (at octet 1)",
        f"01:46:43.000  -         198.18.0.7       leaves {GROUP} (v2 leave)",
        f"01:46:43.000  -         198.18.0.7       is no member of {GROUP} any more",
        "interface  querier     version  last query  interval",
        "-          198.18.0.7  3        3.0 s ago   125 s",
        "4 messages in 3.0 s, 1 of them malformed. Groups: 0, members: 0.",
    ]


@pytest.mark.pure
def test_json_has_an_object_for_each_record(tmp_path: Path) -> None:
    done = run("--read", str(capture_of(tmp_path / "some.pcap")), "--json", "--until-querier")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["watching", "query", "querier", "querier_state", "summary"]
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[1]["timestamp_ns"] == 10**18
    assert lines[1]["sender"] == "198.18.0.7"


@pytest.mark.pure
def test_a_capture_without_a_querier_is_a_status(tmp_path: Path) -> None:
    path = tmp_path / "empty.pcap"
    with CaptureWriter(path):
        pass
    done = run("--read", str(path), "--until-querier")
    assert done.returncode == Status.NEGATIVE
    assert done.stdout == "0 messages in 0.0 s. Groups: 0, members: 0.\n"


@pytest.mark.pure
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("is_opened", [True, False])
def test_a_signal_ends_it_while_it_waits_for_a_pipe(
    number: signal.Signals, status: int, is_opened: bool, tmp_path: Path
) -> None:
    octets = capture_of(tmp_path / "some.pcap").read_bytes()
    path = tmp_path / "pipe"
    os.mkfifo(path)
    argv = [*COMMAND, "--read", str(path), "--json"]
    with contextlib.ExitStack() as stack:
        if is_opened:
            pipe = stack.enter_context(path.open("r+b", buffering=0))
            pipe.write(octets)
        process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        assert process.stdout is not None
        assert process.stderr is not None
        if is_opened:
            while json.loads(process.stdout.readline())["event"] != "leave":
                pass
        else:
            wait_for_its_thread(process.pid)
        process.send_signal(number)
        rest = [json.loads(line)["event"] for line in process.stdout]
        assert process.wait(DEADLINE) == status
        assert process.stderr.read() == ""
    assert rest[-1] == "summary"


def wait_for_its_thread(pid: int) -> None:
    """Wait until a process has a second thread, which opens the pipe, and waits for the other end."""
    deadline = time.monotonic() + DEADLINE
    while len([*Path(f"/proc/{pid}/task").iterdir()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.pure
def test_standard_input_is_read_as_a_pipe(tmp_path: Path) -> None:
    octets = capture_of(tmp_path / "some.pcap").read_bytes()
    done = subprocess.run([*COMMAND, "--read", "-", "--json"], input=octets, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout.splitlines()[-1])["messages"] == 4


@pytest.mark.pure
async def test_what_comes_before_a_fault_in_a_capture_is_told(tmp_path: Path) -> None:
    path = capture_of(tmp_path / "some.pcap")
    with path.open("ab") as file:
        file.write(struct.pack("=IIII", 0, 0, 1 << 30, 1 << 30))
    told = Told()
    with pytest.raises(BaseExceptionGroup) as caught:
        await replay.main(told, Options(), path)
    assert caught.group_contains(OSError, match="is broken")
    assert told.of("leave")


@pytest.mark.pure
@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--group", "198.18.0.1"], 2, "must be a group, from 224.0.0.0 to 239.255.255.255"),
        (["--exec", "'"], 2, "must be a command with its arguments"),
        (["--exec", ""], 2, "must be a command with its arguments, as './joined.sh', got nothing"),
        (["--for", "soon"], 2, "must be a duration"),
        (["--read", "some.pcap", "--exec", "true"], 2, "--exec is about the wire: leave it out with --read"),
        (["--read", "some.pcap", "--interface", "en0"], 2, "--interface is about the wire"),
        (["--read", "some.pcap", "--interfaces"], 2, "--interfaces is about the wire"),
        (["--read", "some.pcap", "--for", "3s"], 2, "--for is about the wire"),
        (["--read", "/nowhere/some.pcap"], 5, "No such file or directory: '/nowhere/some.pcap'"),
        (["--read", __file__], 5, "is no capture in the format pcap or pcapng"),
        (["--interface", "nothing0"], 5, "nothing0"),
    ],
)
def test_wrong_usage_and_failures_say_what_is_right(
    arguments: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["trio-ipv4", "watch", *arguments])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # Put back what `run` changes.
    with pytest.raises(SystemExit) as end:
        _cli.run()
    said = capsys.readouterr()
    assert (end.value.code, said.out) == (status, "")
    assert words in said.err
    assert "Reading a capture" not in said.err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_the_summary(number: signal.Signals, status: int, veth: str) -> None:
    with subprocess.Popen([*COMMAND, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "watching"
        process.send_signal(number)
        rest = [json.loads(line) for line in process.stdout]
        assert process.wait(DEADLINE) == status
    assert rest[-1]["event"] == "summary"
    assert igmp_groups().keys() == {each for each in igmp_groups() if str(each[1]) == ALL_SYSTEMS}


def test_in_a_narrow_terminal_names_and_addresses_stay(tmp_path: Path) -> None:
    path = capture_of(tmp_path / "some.pcap")
    main, end = pty.openpty()
    with os.fdopen(main, "rb", buffering=0) as terminal:
        env = {**PLAIN, "COLUMNS": "60", "TERM": "xterm", "TZ": "UTC"}
        argv = [*COMMAND, "--read", str(path)]
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=end, stderr=subprocess.DEVNULL, env=env
        ) as process:
            os.close(end)
            shown = b""
            with contextlib.suppress(OSError):  # EIO: the other end is closed.
                while chunk := terminal.read(4096):
                    shown += chunk
            assert process.wait(DEADLINE) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
    assert "is the querier (version 3)" in " ".join(text.split())
    assert "198.18.0.7  3        3.0 s ago   125 s" in text
