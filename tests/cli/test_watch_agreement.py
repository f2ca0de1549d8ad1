"""tshark agrees with `watch` on every IGMP message: of an hour on the simulated network, and of a lab.

The lab's part takes 10 seconds. TRIO_IPV4_IGMP_SECONDS says how long else: 300 for five minutes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
from collections import Counter
from ipaddress import IPv4Address
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

from support.igmp_script import HOSTS, MARK, make_hub, play
from support.wire import fields_of, need_tshark
from trio_ipv4._cli.output import JSONLines
from trio_ipv4._cli.watch import live, replay
from trio_ipv4._cli.watch.show import Options
from trio_ipv4._cli.watch.wire import open_wire
from trio_ipv4.testing import open_lab, simulate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from conftest import Eventually
    from trio_ipv4.testing import Lab, LabHost, SimulatedNetwork

SECONDS = float(os.environ.get("TRIO_IPV4_IGMP_SECONDS", "10"))
FIELDS = (
    *("ip.src", "ip.dst", "ip.ttl", "ip.len", "ip.hdr_len", "frame.time_epoch", "frame.protocols", "_ws.malformed"),
    *("igmp.type", "igmp.version", "igmp.checksum.status", "igmp.maddr", "igmp.max_resp", "igmp.s", "igmp.qrv"),
    *("igmp.qqic", "igmp.num_src", "igmp.saddr", "igmp.num_grp_recs", "igmp.record_type", "igmp.aux_data_len"),
    "igmp.data",
)
QUERY, REPORTS, LEAVE, REPORT_3 = 0x11, {0x12: 1, 0x16: 2}, 0x17, 0x22
"""Types (RFC 9776 section 4)."""
TYPES = {1: "mode_is_include", 2: "mode_is_exclude", 3: "change_to_include_mode", 4: "change_to_exclude_mode"} | {
    5: "allow_new_sources",
    6: "block_old_sources",
}
"""Names of record types (RFC 9776 section 4.2.13)."""
OTHER_PROTOCOLS = {"dvmrp": 0x13, "pim": 0x14}
"""Types that tshark hands to other dissectors, which tell no type of IGMP's."""
MARKED = MARK.type
Fields = dict[str, str]
Told = list[dict[str, Any]]


# What tshark says, in terms of `watch`'s records


def what_tshark_reads(path: Path) -> list[Fields]:
    """Return the fields of each packet of IGMP's protocol number."""
    return [dict(zip(FIELDS, row, strict=True)) for row in fields_of(path, FIELDS, "-Y", "ip.proto == 2")]


def numbers(fields: Fields, name: str) -> list[int]:
    return [int(each, 0) for each in fields[name].split(",") if each]


def addresses(fields: Fields, name: str) -> list[str]:
    return [each for each in fields[name].split(",") if each]


def kind_of(fields: Fields) -> int | None:
    """Return the type of a message; `None` if tshark sees none."""
    protocol = OTHER_PROTOCOLS.get(fields["frame.protocols"].rpartition(":")[2])
    return next(iter(numbers(fields, "igmp.type")), protocol)


def is_malformed(fields: Fields) -> bool:
    """Tell by tshark's fields whether a message breaks a rule of the RFCs. tshark itself knows only some of them."""
    kind, groups = kind_of(fields), addresses(fields, "igmp.maddr")
    if kind is None or fields["igmp.checksum.status"] == "0":
        return True
    if kind not in {QUERY, LEAVE, REPORT_3, *REPORTS}:
        return False
    length = int(fields["ip.len"]) - int(fields["ip.hdr_len"])
    if kind == QUERY:
        asks_all = groups == ["0.0.0.0"]
        if 8 < length < 12 or (asks_all and any(numbers(fields, "igmp.num_src"))):
            return True
        groups = [] if asks_all else groups
    return bool(fields["_ws.malformed"]) or not all(IPv4Address(each).is_multicast for each in groups)


def expected(fields: Fields) -> Told:
    """Return what the records of a message have to say, by tshark's fields."""
    kind, groups = kind_of(fields), addresses(fields, "igmp.maddr")
    facts: dict[str, Any]
    if is_malformed(fields):
        facts = {"event": "malformed"}
        if kind is not None:
            facts["type"] = kind
        if fields["igmp.checksum.status"]:
            facts["checksum_ok"] = fields["igmp.checksum.status"] == "1"
        if kind in {QUERY, LEAVE, *REPORTS} and groups:
            facts["group"] = groups[0]
        return [facts]
    if kind == QUERY:
        return [expected_query(fields, groups[0])]
    if kind == LEAVE:
        return [{"event": "leave", "group": groups[0]}]
    if kind in REPORTS:
        return [{"event": "report", "version": REPORTS[kind], "group": groups[0], "record_type": None}]
    if kind == REPORT_3:
        return expected_records(fields, groups)
    facts = {"event": "other", "type": kind}
    if fields["igmp.data"]:
        # The code, the checksum, and what is behind it.
        data = bytes.fromhex(fields["igmp.data"])
        facts |= {"code": data[0], "octets": len(data) - 3}
    return [facts]


def expected_query(fields: Fields, group: str) -> dict[str, Any]:
    version = int(fields["igmp.version"])
    facts: dict[str, Any] = {"event": "query", "version": version}
    facts["group"] = None if group == "0.0.0.0" else group
    facts["sources"] = addresses(fields, "igmp.saddr")
    # In version 1 the time is fixed (RFC 1112 appendix I).
    facts["max_response_seconds"] = 10.0 if version == 1 else int(fields["igmp.max_resp"]) / 10
    if version == 3:
        facts["suppress_router_processing"] = fields["igmp.s"] in {"1", "True"}
        facts["robustness"] = int(fields["igmp.qrv"]) or None
        facts["query_interval_seconds"] = seconds_of(int(fields["igmp.qqic"])) or None
    return facts


def seconds_of(code: int) -> int:
    """Read a code of an octet, which tshark shows as it is (RFC 9776 section 4.1.7)."""
    return code if code < 128 else ((code & 15) | 16) << ((code >> 4 & 7) + 3)


def expected_records(fields: Fields, groups: list[str]) -> Told:
    (count,) = numbers(fields, "igmp.num_grp_recs")
    if count == 0:
        return [{"event": "report", "version": 3, "record": 0, "records": 0, "group": None}]
    sources = iter(addresses(fields, "igmp.saddr"))
    columns = (numbers(fields, f"igmp.{name}") for name in ("record_type", "num_src", "aux_data_len"))
    return [
        {
            "event": "report",
            "version": 3,
            "record": number,
            "records": count,
            "record_type": TYPES.get(kind, kind),
            "group": group,
            "sources": [next(sources) for _ in range(many)],
            "auxiliary_octets": 4 * words,
        }
        for number, (group, kind, many, words) in enumerate(zip(groups, *columns, strict=True), 1)
    ]


# What `watch` says


class Lines(JSONLines):
    """Keeps the lines that the command would write."""

    def __init__(self) -> None:
        self.lines: Told = []

    def show(self, record: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trio_ipv4._cli.output.write", lambda text: self.lines.append(json.loads(text)))
            super().show(record)


def by_message(lines: Told) -> list[Told]:
    """Return the records of each message."""
    told = [line for line in lines if "message" in line]
    return [list(records) for _, records in groupby(told, key=lambda line: line["message"])]


def agree(theirs: list[Fields], ours: list[Told], *, seconds: float) -> Counter[str]:
    """Check each message, and its time to so many seconds; return how many there were of each kind."""
    assert len(theirs) == len(ours)
    kinds: Counter[str] = Counter()
    for fields, records in zip(theirs, ours, strict=True):
        wanted = expected(fields)
        assert len(records) == len(wanted), (fields, records)
        for record, facts in zip(records, wanted, strict=True):
            assert {key: record[key] for key in facts} == facts, (fields, record)
            assert record["sender"] == fields["ip.src"]
            assert record["destination"] == fields["ip.dst"]
            assert record["ttl"] == int(fields["ip.ttl"])
            assert abs(record["timestamp_ns"] / 1e9 - float(fields["frame.time_epoch"])) < seconds
            kinds[f"{record['event']} {record.get('version', '')}".strip()] += 1
    return kinds


def check_variety(kinds: Counter[str], *, times: int) -> None:
    """Check that there was something of everything to agree on."""
    assert set(kinds) == {
        *(f"query {version}" for version in (1, 2, 3)),
        *(f"report {version}" for version in (1, 2, 3)),
        "leave",
        "other",
        "malformed",
    }
    assert all(kinds[kind] >= times for kind in ("query 3", "report 2", "report 3", "leave", "other", "malformed"))


# The simulated network


def simulated_hosts(network: SimulatedNetwork) -> None:
    link = network.link(latency=0.001)
    for number, name in enumerate(HOSTS, 1):
        network.host(name).attach(link, "en0", f"198.18.0.{number}/24")


@pytest.mark.pure
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tshark_agrees_on_every_message_of_a_simulated_hour(seed: int, tmp_path: Path) -> None:
    need_tshark()
    capture = tmp_path / "hour.pcap"

    async def main() -> None:
        with simulate(seed=seed) as network:
            simulated_hosts(network)
            with network.capture(capture):
                await play(network, 3600, seed)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    output = Lines()
    assert trio.run(replay.main, output, Options(), capture) == 0
    kinds = agree(what_tshark_reads(capture), by_message(output.lines), seconds=1e-6)
    check_variety(kinds, times=10)
    changes = [(line["change"], line["address"]) for line in output.lines if line["event"] == "querier"]
    assert ("elected", "198.18.0.2") in changes
    assert ("changed", "198.18.0.1") in changes
    assert {line["change"] for line in output.lines if line["event"] == "member"} == {"first", "joined", "left", "last"}
    assert {"version", "expiring", "member_state", "querier_state"} <= {line["event"] for line in output.lines}


# The lab


@pytest.fixture
def hub(needs_lab: None) -> Iterator[Lab]:
    """The hosts of the script on a switch that does not snoop: it passes on nonsense, too."""
    with open_lab(HOSTS) as lab:
        make_hub(lab)
        yield lab


@contextlib.asynccontextmanager
async def recorded(host: LabHost, path: Path) -> AsyncIterator[None]:
    """Let tcpdump record what is IGMP on a host's interface."""
    argv = ["tcpdump", "-i", "en0", "--immediate-mode", "-U", "-Z", "root", "-w", str(path), "ip proto 2"]
    process = await trio.lowlevel.open_process(host.command(argv), stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = b""
    while b"listening on" not in said:
        chunk = await process.stderr.receive_some()
        assert chunk, said
        said += chunk
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stderr.aclose()


def marks(lines: Told) -> int:
    return sum(line.get("type") == MARKED for line in lines if line["event"] == "other")


async def test_tshark_agrees_on_every_message_in_the_lab(hub: Lab, tmp_path: Path, eventually: Eventually) -> None:
    need_tshark()
    capture, output, watcher = tmp_path / "lab.pcap", Lines(), hub["q1"]
    async with recorded(watcher, capture), trio.open_nursery() as nursery:
        main = functools.partial(live.main, output, Options(), wire=functools.partial(watcher.call, open_wire))
        nursery.start_soon(watcher.run, main)
        await eventually(lambda: [line for line in output.lines if line["event"] == "watching"])
        await play(hub, SECONDS)
        await eventually(lambda: marks(output.lines) == 2)
        await eventually(lambda: [each["igmp.type"] for each in what_tshark_reads(capture)].count(hex(MARKED)) == 2)
        nursery.cancel_scope.cancel()
    theirs = what_tshark_reads(capture)
    ends = [place for place, each in enumerate(theirs) if each["igmp.type"] == hex(MARKED)]
    ours = by_message(output.lines)
    own_ends = [place for place, records in enumerate(ours) if records[0].get("type") == MARKED]
    kinds = agree(theirs[ends[0] : ends[1] + 1], ours[own_ends[0] : own_ends[1] + 1], seconds=0.1)
    check_variety(kinds, times=8)
    # What this host sends shows once, as sent.
    sent = [records[0]["outgoing"] for records in ours]
    assert sent == [records[0]["sender"] == str(watcher.addresses[0]) for records in ours]
