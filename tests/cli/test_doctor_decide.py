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
