"""The table of doctor's causes: every cause is a verdict that rules give, and a section of the manual."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.files import load
from trio_ipv4._cli.doctor import decide
from trio_ipv4._cli.doctor.causes import CAUSES

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
RULES = Path(decide.__file__).parent  # Not the checkout: an installed wheel has them elsewhere.


def test_the_page_nothing_arrives_has_the_table() -> None:
    """`python tools/causes_page.py` writes it."""
    tool = load(ROOT / "tools/causes_page.py")
    assert tool.PAGE.read_text(encoding="utf-8") == tool.write_page()


def test_every_code_in_the_rules_is_in_the_table_and_every_cause_has_a_rule() -> None:
    rules = "".join(path.read_text(encoding="utf-8") for path in RULES.rglob("*.py"))
    quoted = set(re.findall(r'"([a-z0-9-]+)"', rules)) | {f"firewall-{hook}" for hook in ("prerouting", "input")}
    assert set(CAUSES) <= quoted
    # What else is quoted and looks like a code.
    assert {each for each in quoted - set(CAUSES) if "-" in each} == {"cannot-tell"}


@pytest.mark.parametrize("code", sorted(CAUSES))
def test_a_cause_fits_into_a_sentence_and_names_what_it_knows(code: str) -> None:
    cause = CAUSES[code]
    assert not cause.title.endswith(".")
    assert cause.symptom.endswith(".")
    assert cause.proof.endswith(".")
    known = {"group", "port", "interface", "source", "pid", "limit"}
    for text in (cause.proof, *cause.cure):
        assert set(re.findall(r"{(\w+)}", text)) <= known
