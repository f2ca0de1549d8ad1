"""Rules of iptables in the kernel's old tables: `iptables-legacy-save`. Needs CAP_NET_ADMIN.

Rules that a newer iptables made are nftables', and stand there.
"""

from __future__ import annotations

import re
import shlex
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from trio_ipv4._cli.doctor.witnesses.rules.chains import Chain, Does, Verdict, find_drops
from trio_ipv4._cli.doctor.witnesses.rules.packets import all_of, negate
from trio_ipv4._cli.doctor.witnesses.rules.tools import ToolError, run

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from trio_ipv4._cli.doctor.evidence import Rule
    from trio_ipv4._cli.doctor.witnesses.rules.packets import Packet

_TABLES: Final = Path("/proc/thread-self/net/ip_tables_names")
_PRIORITIES: Final = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0, "security": 50}
"""linux/netfilter_ipv4.h: enum nf_ip_hook_priorities."""
_HOOKS: Final = {name.upper(): name for name in ("prerouting", "input", "forward", "output", "postrouting")}
_DOES: Final[dict[str, Does]] = {"DROP": "drop", "REJECT": "drop", "ACCEPT": "accept", "RETURN": "return"}
_EFFECTLESS: Final = {"LOG", "NFLOG", "TRACE", "MARK", "CONNMARK", "TOS", "DSCP", "TTL", "CT", "NOTRACK", "SET"}
"""Targets behind which a packet goes on."""
_COUNTED: Final = re.compile(r"\[([0-9]+):[0-9]+\] (-A .*)")


@attrs.frozen
class _Line:
    """A rule, as `iptables-save -c` writes it."""

    command: str
    table: str
    chain: str
    text: str
    counted: int

    @property
    def remove(self) -> str:
        return f"{self.command} -t {self.table} -D {self.text.removeprefix('-A ')}"

    def judge(self, packet: Packet, hook: str) -> Iterator[Verdict]:
        """Compare the packet with its words."""
        words = shlex.split(self.text)[2:]
        place = next((at for at, word in enumerate(words) if word in {"-j", "-g"}), len(words))
        if (matches := all_of(_compare(words[:place], packet, hook))) is False or place >= len(words):
            return
        target = words[place + 1]
        if words[place] == "-g":
            yield Verdict(matches, "goto", f"{self.table} {target}")
        elif target in _DOES:
            yield Verdict(matches, _DOES[target])
        elif target not in _EFFECTLESS:
            yield Verdict(matches, "jump", f"{self.table} {target}")


def look(packets: Collection[Packet]) -> list[Rule]:
    """Return the rules that may drop one of the packets.

    Raises:
        ToolError: The tool is missing, or refuses.
    """
    try:
        used = bool(_TABLES.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        used = False
    except OSError:
        raise ToolError from None
    return find_drops("iptables", parse(*_save()), packets) if used else []


def _save() -> tuple[str, str]:
    """Return the rules, and the command that changes them."""
    try:
        return run("iptables-legacy-save", "-c"), "iptables-legacy"
    except ToolError:
        if "nf_tables" in run("iptables-save", "--version"):
            raise  # That one shows nftables' rules.
        return run("iptables-save", "-c"), "iptables"


def parse(output: str, command: str) -> dict[str, Chain]:
    """Read the output of `iptables-save -c`: chains, by their tables and names."""
    rules: dict[str, list[_Line]] = {}
    policies: dict[str, str] = {}
    table = ""
    for line in output.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            name, policy, *_ = line[1:].split()
            policies[f"{table} {name}"] = policy
        elif match := _COUNTED.fullmatch(line):
            chain = match[2].split()[1]
            rules.setdefault(f"{table} {chain}", []).append(_Line(command, table, chain, match[2], int(match[1])))
    return {name: _make(command, name, policy, rules.get(name, [])) for name, policy in policies.items()}


def _make(command: str, name: str, policy: str, rules: list[_Line]) -> Chain:
    table, chain = name.split()
    return Chain(
        rules,
        _HOOKS.get(chain),
        _PRIORITIES.get(table, 0),
        f"-P {chain} DROP" if policy == "DROP" else None,
        lambda packet: f"{command} -t {table} -I {chain} {_what(packet)} -j ACCEPT",
    )


def _what(packet: Packet) -> str:
    if packet.kind == "udp":
        return f"-d {next(iter(packet.destinations))} -p udp --dport {packet.port}"
    return "-p igmp"


def _compare(words: list[str], packet: Packet, hook: str) -> Iterator[bool | None]:
    """Compare each option with the packet; an option that is not known may match."""
    place, negated = 0, False
    while place < len(words):
        option, value = words[place], words[place + 1] if place + 1 < len(words) else ""
        place += 1
        if option == "!":
            negated = True
        elif option.startswith("-"):
            answer = _OPTIONS[option](value, packet, hook) if option in _OPTIONS else None
            yield negate(answer) if negated else answer
            negated = False


def _has_destination(value: str, packet: Packet, _: str) -> bool | None:
    answers = {address in IPv4Network(value, strict=False) for address in packet.destinations}
    return answers.pop() if len(answers) == 1 else None


def _has_source(value: str, packet: Packet, _: str) -> bool | None:
    return None if packet.source is None else packet.source in IPv4Network(value, strict=False)


def _has_protocol(value: str, packet: Packet, _: str) -> bool | None:
    return value in {packet.kind, str(packet.protocol), "all"}


def _has_port(value: str, packet: Packet, _: str) -> bool | None:
    if packet.port is None:
        return False
    ranges = [part.split(":") for part in value.split(",")]
    return any(int(part[0] or 0) <= packet.port <= int(part[-1] or 65535) for part in ranges)


def _comes_by(value: str, packet: Packet, hook: str) -> bool | None:
    return _is_interface(value, packet) if hook in {"prerouting", "input", "forward"} else False


def _goes_by(value: str, packet: Packet, hook: str) -> bool | None:
    if hook == "forward":
        return None
    return _is_interface(value, packet) if hook in {"output", "postrouting"} else False


def _is_interface(value: str, packet: Packet) -> bool | None:
    if packet.interface is None:
        return None
    return packet.interface.startswith(value[:-1]) if value.endswith("+") else packet.interface == value


def _has_state(value: str, _: Packet, __: str) -> bool | None:
    # Nobody answers the group's address, so that such a flow stays new, or it isn't tracked.
    return None if {"NEW", "UNTRACKED"} & set(value.split(",")) else False


def _has_type(value: str, _: Packet, __: str) -> bool | None:
    return "MULTICAST" in value.upper().split(",")


def _says_nothing(_: str, __: Packet, ___: str) -> bool | None:
    return True


_OPTIONS: Final[dict[str, Any]] = {
    "-d": _has_destination,
    "-s": _has_source,
    "-p": _has_protocol,
    "--dport": _has_port,
    "--dports": _has_port,
    "-i": _comes_by,
    "-o": _goes_by,
    "--ctstate": _has_state,
    "--state": _has_state,
    "--dst-type": _has_type,
    "-m": _says_nothing,
    "--comment": _says_nothing,
}
"""What an option with a value says of a packet (iptables-extensions(8))."""
