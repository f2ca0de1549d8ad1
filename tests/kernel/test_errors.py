from __future__ import annotations

import copy
import errno
import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trio_ipv4 import (
    DeafMembershipWarning,
    MembershipWarning,
    ParseError,
    PartialSendError,
    SourceSpecificRangeWarning,
    UnsupportedError,
    open_udp,
)
from trio_ipv4._errors import ADVICE
from trio_ipv4._kernel.explain import explain, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ipv4.testing import Lab


@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_errors_survive_pickling_and_copying(again: Callable[[Exception], Exception]) -> None:
    parse = again(ParseError("expected a header", offset=7))
    assert isinstance(parse, ParseError)
    assert (parse.offset, str(parse)) == (7, "expected a header (at offset 7)")
    unsupported = again(UnsupportedError("IP_PKTINFO", "win32"))
    assert isinstance(unsupported, UnsupportedError)
    assert (unsupported.option, unsupported.platform) == ("IP_PKTINFO", "win32")
    assert str(unsupported) == "IP_PKTINFO is not available on win32"
    partial = again(PartialSendError(errno.EMSGSIZE, "can't send datagram 3", 3))
    assert isinstance(partial, PartialSendError)
    assert (partial.errno, partial.strerror, partial.sent) == (errno.EMSGSIZE, "can't send datagram 3", 3)
    assert (partial.filename, partial.filename2) == (None, None)
    assert str(partial) == f"[Errno {errno.EMSGSIZE}] can't send datagram 3"
    for error in (parse, unsupported, partial):
        assert repr(error).startswith(type(error).__name__)


def test_errors_are_what_callers_would_catch() -> None:
    assert issubclass(ParseError, ValueError)
    assert issubclass(UnsupportedError, NotImplementedError)
    assert issubclass(PartialSendError, OSError)
    assert issubclass(SourceSpecificRangeWarning, UserWarning)
    assert issubclass(DeafMembershipWarning, UserWarning)
    assert issubclass(MembershipWarning, RuntimeWarning)
    assert ParseError("x").offset == 0


@pytest.mark.parametrize(
    "error",
    [ParseError("x", offset=1), PartialSendError(errno.EPERM, "x", 1), UnsupportedError("IP_TTL", "win32")],
    ids=lambda error: type(error).__name__,
)
def test_notes_survive_pickling(error: Exception) -> None:
    error.add_note("while reading the table")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while reading the table"]


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_an_explained_error_keeps_errno_and_subclass(number: int) -> None:
    original = OSError(number, "the kernel's words")
    explained = explain(original, "option", "set IP_TTL to 1")
    assert (type(explained), explained.errno) == (type(original), number)
    assert str(explained).startswith(f"[Errno {number}] can't set IP_TTL to 1: ")


def test_every_advice_is_reached_by_its_topic_and_errno() -> None:
    for (topic, number), advice in ADVICE.items():
        message = str(refusal(number, topic, "do it"))
        assert message.startswith(f"[Errno {number}] can't do it: ")
        assert message.endswith(")")
        assert advice.split("{")[0] in message
        assert "{" not in message


def test_a_sysctl_is_quoted_with_its_value() -> None:
    limit = Path("/proc/sys/net/ipv4/igmp_max_memberships")
    limit.write_text("33", encoding="ascii")  # Of this test's own network.
    assert "net.ipv4.igmp_max_memberships is 33; raise it" in str(refusal(errno.ENOBUFS, "join", "join"))


def test_a_sysctl_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert "as many groups as one may be: sysctl net.ipv4.igmp_max_memberships; raise it" in str(
        refusal(errno.ENOBUFS, "join", "join")
    )


def set_limit(number: int) -> None:
    Path("/proc/sys/net/ipv4/igmp_max_memberships").write_text(str(number), encoding="ascii")


async def test_another_networks_sysctl_is_not_quoted(lab: Lab) -> None:
    set_limit(7)
    a = lab["a"]
    a.call(set_limit, 1)
    async with a.call(open_udp) as there, open_udp() as here:
        with pytest.raises(OSError, match=r"sysctl net\.ipv4\.igmp_max_memberships; raise it") as caught:
            fill(there.join_group, "en0")
        assert caught.value.errno == errno.ENOBUFS
        assert " is " not in str(caught.value).partition("igmp_max_memberships")[2]
        with pytest.raises(OSError, match=r"net\.ipv4\.igmp_max_memberships is 7; raise it"):
            fill(here.join_group, "lo")
        # In the connection's own network its own value is told.
        with pytest.raises(OSError, match=r"net\.ipv4\.igmp_max_memberships is 1; raise it"):
            a.call(fill, there.join_group, "en0", 100)


def fill(join: Callable[[str, str], None], interface: str, first: int = 0) -> None:
    for number in range(first, first + 10):
        join(interface, f"239.9.9.{number}")


def test_warnings_can_be_chosen_by_their_class() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DeafMembershipWarning)
        for category in (DeafMembershipWarning, SourceSpecificRangeWarning, MembershipWarning):
            warnings.warn("x", category, stacklevel=1)
    assert [each.category for each in caught] == [DeafMembershipWarning]
