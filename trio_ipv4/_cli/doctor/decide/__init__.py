"""From evidence to verdict: pure functions.

Every rule looks at the whole case, and yields what it can conclude: a `Finding`, or an `Unknown` that says what it
can't tell apart. A rule concludes only from what a witness saw; what nobody looked at is never taken for a no. So more
evidence adds findings, and a cause that was proved stays so.

Here one of them is chosen: the first that is proved, in the order of `Where`, else the first that is likely. Other
proved faults are listed under "in any case".
"""

# The modules, from the top:
#
#   sender, router, program, network, quiet, kernel, tables   the rules, by what they look at
#   view      what the rules ask of a case
#   finding   what a rule yields

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_ipv4._cli.doctor.causes import CAUSES, HEALTHY
from trio_ipv4._cli.doctor.decide import kernel, network, program, quiet, router, sender, tables
from trio_ipv4._cli.doctor.decide.finding import Finding, Unknown, Where
from trio_ipv4._cli.doctor.decide.view import LINK_LOCAL, View, listed
from trio_ipv4._cli.doctor.evidence import FreshJoin, OwnReport, Program, Unicast
from trio_ipv4._cli.doctor.verdict import CANNOT_TELL, Certainty, Verdict
from trio_ipv4._cli.output import many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_ipv4._cli.doctor.case import Case

    Rules = tuple[Callable[[View], Iterator[Finding | Unknown]], ...]

_RULES: Final[dict[str, Rules]] = {
    "receiver": (tables.find, kernel.find, quiet.find, program.find, network.find),
    "sender": (tables.find, sender.find),
    "router": (tables.find, router.find),
}


def decide(case: Case) -> Verdict:
    """Return the verdict on a case. It needs no more than the question."""
    view = View(case)
    found = [each for rule in _RULES[case.question.role] for each in rule(view)]
    findings = [each for each in found if isinstance(each, Finding)]
    findings.sort(key=lambda each: (not each.sure, each.where))
    unknowns = [each for each in found if isinstance(each, Unknown)]
    # Our own receiver is made right. Where it is deaf, a fault of the program is one more.
    besides = [each for each in findings if view.deaf and each.where is Where.PROGRAM]
    findings = [each for each in findings if each not in besides]
    if findings:
        return _named(view, [*findings, *besides], unknowns)
    if unknowns:
        return _cannot_tell(view, unknowns, besides)
    return _healthy(view, besides)


def _named(view: View, findings: list[Finding], unknowns: list[Unknown]) -> Verdict:
    first, *more = findings
    # Where the first is not certain, what others could not tell apart may be it, too.
    open_questions = [] if first.sure else unknowns
    besides = dict.fromkeys(each.code for each in more if each.sure and each.code != first.code)
    title = CAUSES[first.code].title
    sureness: Certainty = "proved" if first.sure else "likely"
    received = _what(view, "not received" if first.code not in _RECEIVED else "received, with a fault")
    return Verdict(
        first.code,
        sureness,
        f"{received}. Cause: {title} ({sureness}).",
        first.evidence,
        tuple(code for code in _others(first, more, open_questions) if code != first.code),
        tuple(dict.fromkeys((*first.needs, *(need for each in open_questions for need in each.needs)))),
        first.cure or _cure(view, first.code),
        tuple(besides),
        _disturbed(view),
    )


def _others(first: Finding, more: list[Finding], unknowns: list[Unknown]) -> dict[str, None]:
    likely = (each.code for each in more if not each.sure)
    return dict.fromkeys((*first.others, *likely, *(code for each in unknowns for code in each.codes)))


_RECEIVED: Final = frozenset({"cross-talk", "duplicates", "receive-buffer-overflow"})
"""Faults with which the group does arrive."""


def _what(view: View, how: str) -> str:
    question = view.question
    verb = {"receiver": how, "sender": how.replace("received", "sent"), "router": how.replace("received", "forwarded")}
    where = f" on {question.interface}" if question.interface else ""
    return f"{question.group}:{question.port}{where}: {verb[question.role]}"


def _cure(view: View, code: str) -> tuple[str, ...]:
    question, program_seen = view.question, view.case.get(Program)
    values = {
        "group": question.group,
        "port": question.port,
        "interface": question.interface or "DEVICE",
        "source": next(iter(sorted(view.sources)), "SOURCE"),
        "pid": question.pid or (program_seen.pid if program_seen else "PID"),
        "limit": view.settings.get("igmp_max_memberships", 20),
    }
    cure = (line.format_map(values) for line in CAUSES[code].cure)
    # No router forwards 224.0.0.0/24 (RFC 5771 section 4).
    return tuple(line for line in cure if not (question.group in LINK_LOCAL and line.startswith("On a router")))


def _cannot_tell(view: View, unknowns: list[Unknown], besides: list[Finding] | None = None) -> Verdict:
    codes = dict.fromkeys(code for each in unknowns for code in each.codes)
    return Verdict(
        CANNOT_TELL,
        "cannot-tell",
        f"{_what(view, 'not received. The cause' if view.deaf else 'whether it is received')} can't be told.",
        tuple(dict.fromkeys(sentence for each in unknowns for sentence in each.evidence if sentence)),
        tuple(codes),
        tuple(dict.fromkeys(need for each in unknowns for need in each.needs)),
        in_any_case=tuple(dict.fromkeys(each.code for each in besides or () if each.sure)),
        disturbed=_disturbed(view),
    )


# Nothing is wrong, as far as anybody looked


def _healthy(view: View, besides: list[Finding]) -> Verdict:
    role = view.question.role
    if role == "sender":
        said = sender.is_healthy(view)
        return _all_right(view, [said]) if said else _cannot_tell(view, [Unknown(("not-sending",))])
    if role == "router":
        said = router.forwards(view)
        return _all_right(view, [said]) if said else _cannot_tell(view, [Unknown(("not-on-the-wire",))])
    if not view.received:
        return _cannot_tell(view, [Unknown(_ANYTHING, _unseen(view))], besides)
    if _was_deaf_before(view):
        said = "This host was a member before, and heard nothing. It hears since our own join."
        codes = ("snooping-without-querier", "pruned-by-another", "igmp-queries-blocked")
        return _cannot_tell(view, [Unknown(codes, (said, *_heard(view)), ("Ask again, in some minutes.",))])
    return _all_right(view, [*_heard(view), *program.describe(view)])


_ANYTHING: Final = ("not-on-the-wire", "firewall-input", "not-a-member")


def _unseen(view: View) -> tuple[str, ...]:
    own = view.own
    if own is not None and own.refused:
        return (f"Our own receiver could not {own.refused_what or 'join'}: {own.refused}.",)
    return ()


def _was_deaf_before(view: View) -> bool:
    """Tell whether the look before our join showed none of what a member must have heard."""
    if not view.was_member or view.twin_heard or view.twin_heard is None:
        return False
    return not view.incoming("before") and not view.outgoing() and bool(view.heard and view.heard >= _STEADY)


_STEADY: Final = 5
"""In datagrams: of a slower flow none may have come in the first look."""


def _heard(view: View) -> list[str]:
    own = view.own
    if own is None or not own.heard:
        return [f"A raw socket of ours heard {many(view.heard or 0, 'datagram')}."]
    number = many(sum(each.number for each in own.heard), "datagram")
    ttls = {each.ttl for each in own.heard if each.ttl is not None}
    ttl = f", TTL {listed(ttls)}" if ttls else ""
    wire = f"; the wire showed {view.wire_count}" if view.wire_count else ""
    return [f"Our own receiver heard {number} from {listed({each.source for each in own.heard})}{ttl}{wire}."]


def _all_right(view: View, evidence: list[str]) -> Verdict:
    if view.question.role == "receiver" and view.only_own:
        alone = "All of it was sent by this host itself. To hear from another: --source ADDRESS."
        why = "To find out why others don't hear it: --sender."
        text = f"{_what(view, 'received, from this host itself')}."
        return Verdict(HEALTHY, "likely", text, tuple(evidence), needs=(alone, why), disturbed=_disturbed(view))
    sure = view.question.role != "receiver" or program.is_seen_healthy(view)
    needs = () if sure else (program.why_unseen(view),)
    text = f"{_what(view, 'received')}."
    certainty: Certainty = "proved" if sure else "likely"
    return Verdict(HEALTHY, certainty, text, tuple(evidence), needs=needs, disturbed=_disturbed(view))


# What the examination changed


def _disturbed(view: View) -> tuple[str, ...]:
    said: list[str] = []
    report = view.case.get(OwnReport, "probe")
    if report is not None and report.revived:
        said.append("Our report has revived the flow. It will stop again, within 260 s by default.")
        said.append("Until then, asking again finds nothing wrong.")
    elif report is not None and report.refused is None:
        said.append("A report was sent that this host is a member.")
    if view.own is not None and view.own.members_before is False and view.own.refused_what != "join":
        if view.own.heard:
            said.append(
                f"While we had joined on {view.interface}, programs that are no members may have heard the group."
            )
        said.append("Our join and our leave were reported to the network.")
    if view.case.get(FreshJoin, "test_join") is not None:
        said.append("A test group of 233.252.0.0/24, which nobody uses, was joined and left.")
    if view.case.get(Unicast, "probe") is not None:
        said.append(f"One empty datagram was sent to port 9 of {view.question.source}.")
    return tuple(said)
