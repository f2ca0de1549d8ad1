"""What doctor concludes, as a function of the evidence alone."""

from __future__ import annotations

import gzip
import json
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ipv4._cli.doctor import evidence as facts
from trio_ipv4._cli.doctor.case import Case, read_case
from trio_ipv4._cli.doctor.causes import CAUSES, HEALTHY
from trio_ipv4._cli.doctor.decide import decide
from trio_ipv4._cli.doctor.evidence import Evidence, Question
from trio_ipv4._cli.doctor.verdict import CANNOT_TELL, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.pure

ADDRESSES = st.sampled_from([IPv4Address(each) for each in ("239.1.2.3", "198.18.0.1", "198.18.0.2", "0.0.0.0")])
st.register_type_strategy(IPv4Address, ADDRESSES | st.ip_addresses(v=4))
st.register_type_strategy(IPv4Interface, st.builds(IPv4Interface, st.tuples(ADDRESSES, st.integers(0, 32))))

KINDS = [each for each in vars(facts).values() if isinstance(each, type) and issubclass(each, Evidence)]
QUESTIONS = st.builds(Question, group=st.just(IPv4Address("239.1.2.3")), port=st.just(5000))
CASES = st.builds(
    Case,
    QUESTIONS,
    st.lists(st.one_of([st.builds(kind) for kind in KINDS if kind is not Evidence]), max_size=12).map(tuple),
)


@given(CASES)
def test_no_evidence_makes_it_fail(case: Case) -> None:
    verdict = decide(case)
    assert verdict.code in {*CAUSES, HEALTHY, CANNOT_TELL}
    assert (verdict.certainty == "cannot-tell") == (verdict.code == CANNOT_TELL)
    assert set(verdict.others) | set(verdict.in_any_case) <= set(CAUSES)
    for sentence in (verdict.text, *verdict.evidence, *verdict.needs, *verdict.fix, *verdict.disturbed):
        assert "\n" not in sentence
        assert "None" not in sentence or "None went out" in sentence, sentence


# Stored evidence: what tools/doctor_matrix.py collected, packed by tools/doctor_cases.py


@attrs.frozen
class Stored:
    """An examination of a network whose fault is known."""

    name: str
    right: frozenset[str]
    case: Case


def read_stored() -> list[Stored]:
    with gzip.open(Path(__file__).parent / "doctor_cases.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [make_stored(json.loads(line)) for line in lines]


def make_stored(packed: dict[str, Any]) -> Stored:
    keys = ("name", "variant", "privilege", "pid", "noise")
    case = read_case([json.dumps(record) for record in packed["records"]])
    return Stored("-".join(packed[key] for key in keys), frozenset(packed["right"]), case)


STORED = read_stored()


def is_wrong(verdict: Verdict, stored: Stored) -> bool:
    return verdict.code not in {CANNOT_TELL, *stored.right}


def test_no_verdict_on_a_network_whose_fault_is_known_is_wrong() -> None:
    verdicts = {stored.name: decide(stored.case) for stored in STORED}
    wrong = {stored.name: verdicts[stored.name].code for stored in STORED if is_wrong(verdicts[stored.name], stored)}
    assert not wrong


def without(case: Case, indexes: Sequence[int]) -> Case:
    return attrs.evolve(case, evidence=tuple(each for at, each in enumerate(case.evidence) if at not in indexes))


def is_still_proved(less: Verdict, more: Verdict) -> bool:
    """What was proved with less evidence is so with more: as the cause, or as what is wrong besides."""
    return less.certainty != "proved" or less.code == HEALTHY or less.code in {more.code, *more.in_any_case}


@pytest.mark.parametrize("stored", STORED, ids=lambda stored: stored.name)
def test_more_evidence_never_takes_a_proof_back(stored: Stored) -> None:
    whole = decide(stored.case)
    number = len(stored.case.evidence)
    # Each witness missing, and all that come behind one missing, as if somebody had interrupted it.
    for missing in [*([at] for at in range(number)), *(range(at, number) for at in range(number))]:
        part = decide(without(stored.case, missing))
        assert is_still_proved(part, whole), (missing, part, whole)


@given(st.sampled_from(STORED), st.data())
def test_any_part_of_the_evidence_proves_nothing_else(stored: Stored, data: st.DataObject) -> None:
    number = len(stored.case.evidence)
    missing = data.draw(st.sets(st.integers(0, max(0, number - 1))))
    assert is_still_proved(decide(without(stored.case, sorted(missing))), decide(stored.case))


# Cases that no network of the matrix shows

GROUP, SENDER, OTHER, OWN = (IPv4Address(each) for each in ("239.1.2.3", "198.18.0.1", "198.18.0.9", "198.18.0.2"))
LINKS = facts.Links(
    links=(
        facts.Link(1, "lo", True, True, loopback=True, addresses=(IPv4Interface("127.0.0.1/8"),)),
        facts.Link(2, "en0", True, True, addresses=(IPv4Interface(f"{OWN}/24"),)),
        facts.Link(3, "docker0", True, True, kind="bridge", addresses=(IPv4Interface("172.17.0.1/16"),)),
    )
)
MEMBER = facts.Memberships(members=(facts.Member(2, GROUP, 1),), versions={"2": 3})
TEST_JOIN = facts.FreshJoin(phase="test_join", requests=2, sent=2, on_wire=2)


def flow(source: IPv4Address = SENDER, number: int = 30, **changes: Any) -> facts.Flow:
    return attrs.evolve(facts.Flow(2, "in", source, GROUP, 5000, 1, number), **changes)


def wire(*flows: facts.Flow, dropped: int = 0, phase: facts.Phase = "joined") -> facts.Wire:
    passed = {"2": sum(each.number for each in flows if each.direction == "in" and each.port == 5000)}
    return facts.Wire(seconds=3, flows=flows, passed_ingress=passed, dropped=dropped, phase=phase)


def own(*heard: tuple[IPv4Address, int], **changes: Any) -> facts.OwnReceiver:
    each = tuple(facts.HeardFrom(source, 2, number, 1, GROUP) for source, number in heard)
    return attrs.evolve(facts.OwnReceiver(phase="joined", heard=each, raw=0, members_before=True), **changes)


def program(**changes: Any) -> facts.Program:
    held = (facts.Held(2, GROUP, "exclude"),)
    each = facts.ProgramSocket(3, 77, 4, "0.0.0.0", 5000, here=True, multicast_all=True, memberships=held)
    return facts.Program(4711, "python", "S", True, sockets=(attrs.evolve(each, **changes),))


def judge(*evidence: Evidence, **changes: Any) -> Verdict:
    question = attrs.evolve(Question(GROUP, 5000, "en0", 2, named=True), **changes)
    given = {type(each) for each in evidence}
    usual = [each for each in (LINKS, MEMBER) if type(each) not in given]
    return decide(Case(question, (*usual, *evidence)))


@pytest.mark.parametrize(
    ("written", "meant"),
    [("2", "2 is the number of en0."), (f"{OWN}", f"{OWN} is an address of en0."), ("en1", None)],
)
def test_a_name_that_no_interface_has_is_told_with_those_that_there_are(written: str, meant: str | None) -> None:
    verdict = judge(interface=written, ifindex=None)
    assert (verdict.code, verdict.certainty) == ("no-such-interface", "proved")
    said = [f"No interface is called {written}.", meant, "There are: lo, en0, docker0."]
    assert [*verdict.evidence] == [each for each in said if each is not None]


def test_who_holds_the_port_here_is_named_beside_the_program_elsewhere() -> None:
    taken = own(refused="EADDRINUSE", refused_what="bind", raw=30)
    there = facts.Elsewhere(processes=(facts.OtherNamespace(31, "python", member=True),))
    proxy = facts.UDPSocket(77, 4, "0.0.0.0", 5000, option_memory=0, pids=(12,), names=("docker-proxy",))
    nobody = attrs.evolve(MEMBER, members=())
    verdict = judge(nobody, wire(flow()), taken, there, facts.Sockets(phase="joined", sockets=(proxy,)))
    assert verdict.code == "other-network-namespace"
    assert "In this one port 5000 is held by docker-proxy (pid 12)." in verdict.evidence
    assert any("nsenter --target 31 --net trio-ipv4 doctor 239.1.2.3:5000 --pid 31" in cure for cure in verdict.fix)


def test_where_our_own_receiver_is_deaf_a_fault_of_the_program_is_one_more() -> None:
    silent = (wire(phase="before"), wire(), own(), TEST_JOIN)
    verdict = judge(*silent, program(family=6, local="::", only_ipv6=True))
    assert verdict.code == CANNOT_TELL
    assert "not-on-the-wire" in verdict.others
    assert verdict.in_any_case == ("ipv6-only-socket",)


def test_what_this_host_sends_itself_is_no_reception_where_others_send() -> None:
    refused = facts.InputRoutes(phase="joined", answers=(facts.InputAnswer(SENDER, "refused", "refused"),))
    strict = facts.Settings(values={"conf.all.rp_filter": 1, "interface.rp_filter": 0})
    mine = flow(OWN, 3, direction="out")
    verdict = judge(wire(flow(number=300), mine), own((OWN, 3)), refused, strict, program())
    assert (verdict.code, verdict.certainty) == ("reverse-path-filter", "proved")


def test_what_this_host_alone_sends_is_received_and_it_says_so() -> None:
    verdict = judge(wire(flow(OWN, direction="out")), own((OWN, 30)), program())
    assert (verdict.code, verdict.certainty) == (HEALTHY, "likely")
    assert "from this host itself" in verdict.text


def test_datagrams_of_another_source_are_not_those_that_were_asked_about() -> None:
    verdict = judge(wire(flow(), phase="before"), wire(flow()), own(), TEST_JOIN, source=OTHER)
    assert verdict.code == CANNOT_TELL
    assert f"Others send there: {SENDER}, not {OTHER}." in " ".join(verdict.evidence)


def test_a_wire_with_gaps_is_not_silent() -> None:
    nobody = attrs.evolve(MEMBER, members=())
    complete = judge(nobody, wire(phase="before"), wire(), own(members_before=False), TEST_JOIN)
    assert complete.code == "not-on-the-wire"
    gaps = judge(nobody, wire(phase="before"), wire(dropped=9000), own(members_before=False), TEST_JOIN)
    assert gaps.code == CANNOT_TELL


def test_another_port_of_the_group_may_be_another_flow() -> None:
    verdict = judge(wire(phase="before"), wire(flow(port=1900)), own(), TEST_JOIN)
    assert (verdict.code, verdict.certainty) == ("other-port", "likely")
    assert "not-on-the-wire" in verdict.others


def test_on_loopback_no_report_goes_out_and_nothing_blocks_it() -> None:
    join = attrs.evolve(TEST_JOIN, on_wire=0)
    verdict = judge(wire(phase="before"), wire(), own(), join, interface="lo", ifindex=1)
    assert "igmp-reports-blocked" not in {verdict.code, *verdict.others}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"peer": str(SENDER), "local": str(GROUP)}, HEALTHY),
        ({"peer": str(OTHER), "local": str(GROUP)}, "socket-is-connected"),
        ({"peer": str(SENDER), "local": str(OWN)}, "socket-is-connected"),
    ],
)
def test_a_socket_that_is_connected_to_the_sender_may_hear_it(changes: dict[str, Any], code: str) -> None:
    assert judge(wire(flow()), own((SENDER, 30)), program(**changes)).code == code


def test_a_program_that_is_traced_is_not_stopped() -> None:
    traced = attrs.evolve(program(), state="t")
    assert judge(wire(flow()), own((SENDER, 30)), traced).code == HEALTHY


def test_what_our_own_socket_drops_has_passed_the_firewall() -> None:
    grown = facts.Counters(phase="joined", seconds=3, grown={"IpExt.InMcastPkts": 30, "Ip.InDelivers": 30})
    verdict = judge(wire(flow()), own(drops=30), grown)
    assert not verdict.code.startswith("firewall")


def test_a_tag_that_a_vlan_interface_takes_off_is_heard_there() -> None:
    above = facts.Link(4, "en0.100", True, True, kind="vlan", lower=2)
    links = attrs.evolve(LINKS, links=(*LINKS.links, above))
    verdict = judge(links, wire(flow(vlan=100), flow(ifindex=4)), own())
    assert verdict.fix == ("Join on en0.100.",)


def test_a_program_without_a_socket_is_not_healthy() -> None:
    without = facts.Program(4711, "python", "S", True)
    verdict = judge(wire(flow()), own((SENDER, 30)), facts.Sockets(), without, pid=4711)
    assert verdict.code == CANNOT_TELL
    assert "has no UDP socket" in verdict.evidence[0]


@pytest.mark.parametrize(
    ("refused", "cure"), [("EPERM", ": run this as its own user, or as root"), ("ENOSYS", ""), ("EXDEV", "")]
)
def test_root_is_named_only_where_it_helps_to_ask_a_program(refused: str, cure: str) -> None:
    silent = facts.Program(4711, "python", "S", True, refused)
    verdict = judge(wire(flow()), own((SENDER, 30)), silent, pid=4711)
    assert (verdict.code, verdict.certainty) == (HEALTHY, "likely")
    assert verdict.needs == (f"python (pid 4711) can't be asked ({refused}){cure}.",)


def test_what_is_known_of_the_surroundings_is_told_and_proves_nothing() -> None:
    en0 = attrs.evolve(LINKS.links[1], promiscuous=True)
    links = attrs.evolve(LINKS, links=(LINKS.links[0], en0), vendor="Amazon EC2")
    bridges = facts.Bridges(phase="after", bridges=(facts.Bridge(9, snooping=True, querier=False, ports=(2,)),))
    verdict = judge(links, wire(phase="before"), wire(), own(), TEST_JOIN, bridges)
    assert verdict.code == CANNOT_TELL
    for hint in ("Amazon's cloud", "tcpdump without -p", "snoops, and is no querier"):
        assert hint in verdict.evidence[0]
