"""Write the table of doctor's causes into the manual's page "Nothing arrives".

    python tools/causes_page.py

The page is written by hand as far as the mark; what follows it comes from `trio_ipv4/_cli/doctor/causes.py`. A test
holds the two together.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trio_ipv4._cli.doctor.causes import CAUSES, Cause

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = Path(__file__).parents[1] / "docs/how-to/nothing-arrives.md"
MARK: Final = "<!-- From here on: tools/causes_page.py -->\n"
_PLACES: Final = {
    "program": "In the program",
    "host": "On the receiving host",
    "network": "In the network",
    "sender": "At the sender",
    "router": "On a router",
}
_COMMAND: Final = re.compile(r"(ip|sysctl|nft|tc|kill|ethtool|bpftool) ")
_VALUES: Final = {
    "group": "GROUP",
    "port": "PORT",
    "interface": "INTERFACE",
    "source": "SOURCE",
    "pid": "PID",
    "limit": "20",
}


def write_page() -> str:
    """Return the page as it should be."""
    by_hand = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    return by_hand + MARK + "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield from ("", "## By symptom", "")
    symptoms: dict[str, list[str]] = {}
    for code, cause in CAUSES.items():
        symptoms.setdefault(cause.symptom, []).append(code)
    for symptom, codes in sorted(symptoms.items(), key=lambda each: -len(each[1])):
        yield f"- {symptom.rstrip('.')}: {', '.join(f'[{code}](#{code})' for code in codes)}"
    for place, heading in _PLACES.items():
        yield from ("", f"## {heading}")
        for code, cause in CAUSES.items():
            if cause.where == place:
                yield from _section(code, cause)
    yield ""


def _section(code: str, cause: Cause) -> Iterator[str]:
    title = cause.title[0].upper() + cause.title[1:]
    yield from ("", f"({code})=", "", f"### {title}", "", f"`{code}`", "")
    yield from (f"- **Symptom**: {cause.symptom}", f"- **Proof**: {_fill(cause.proof)}", "- **Cure**:")
    for line in map(_fill, cause.cure):
        yield f"  - `{line}`" if _COMMAND.match(line) else f"  - {line}"


def _fill(text: str) -> str:
    return text.format_map(_VALUES)


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
