"""How a command ends: by itself, in time, by a signal, or because nobody reads any more."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from trio_ipv4 import _cli
from trio_ipv4._cli import interfaces
from trio_ipv4._cli.ends import Status, until_stopped

if TYPE_CHECKING:
    from collections.abc import Callable

WATCH = [sys.executable, "-m", "trio_ipv4", "interfaces", "--watch"]
DEADLINE = 120
"""Seconds: no measure of anything, but an end."""
PLAIN = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "FORCE_COLOR", "NO_COLOR"}}


async def ending(
    inside: Callable[[Any], object] = lambda _: None,
    behind: Callable[[], object] = lambda: None,
    *,
    seconds: float | None = None,
    waits: bool = True,
) -> tuple[list[str], int]:
    """Run a block, and return which of its parts ran, and the exit status."""
    ran: list[str] = []
    async with until_stopped(seconds) as stop:
        inside(stop)
        if waits:
            await trio.sleep_forever()
        ran.append("all of the block")
    await trio.lowlevel.checkpoint()
    behind()
    ran.append("what is behind it")
    return ran, stop.status(Status.NEGATIVE)


async def test_a_block_that_ends_by_itself_has_its_own_status() -> None:
    assert await ending(waits=False) == (["all of the block", "what is behind it"], 1)


async def test_a_block_ends_when_it_is_told_to() -> None:
    assert await ending(lambda stop: stop.now()) == (["what is behind it"], 1)


async def test_a_block_ends_in_time(autojump_clock: trio.testing.MockClock) -> None:
    assert await ending(seconds=3) == (["what is behind it"], 1)
    assert trio.current_time() == pytest.approx(3)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_block_and_what_is_behind_it_runs(number: int, status: int) -> None:
    before = signal.getsignal(number)
    done = trio.run(ending, lambda _: signal.raise_signal(number))
    assert done == (["what is behind it"], status)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_while_the_summary_is_shown_does_no_harm(second: int) -> None:
    done = trio.run(ending, lambda _: signal.raise_signal(signal.SIGINT), lambda: signal.raise_signal(second))
    assert done == (["what is behind it"], 130)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_of_two_signals_at_once_one_counts() -> None:
    def both(_: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)

    assert trio.run(ending, both) == (["what is behind it"], 143)


def test_a_signal_while_the_block_is_left_does_no_harm() -> None:
    async def main() -> str:
        said = ""
        async with until_stopped() as stop:
            signal.raise_signal(signal.SIGINT)
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    signal.raise_signal(signal.SIGINT)
                    await trio.testing.wait_all_tasks_blocked()
                    said = "left"
        return f"{said} {stop.status(0)}"

    assert trio.run(main) == "left 130"


def test_after_a_block_that_ended_by_itself_ctrl_c_works_as_ever() -> None:
    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        await ending(behind=interrupt, waits=False)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


async def test_an_error_in_the_block_comes_out() -> None:
    def fail(_: object) -> None:
        raise OSError(5, "it failed")

    with pytest.raises(BaseExceptionGroup) as caught:
        await ending(fail)
    assert caught.group_contains(OSError, match="it failed")


# A whole command


@pytest.mark.parametrize("arguments", [[], ["--json"]])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command(arguments: list[str], number: int, status: int) -> None:
    with subprocess.Popen([*WATCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=PLAIN) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline()
        watch.send_signal(number)
        _, told = watch.communicate(timeout=DEADLINE)
    assert (watch.returncode, told) == (status, b"")


@pytest.mark.usefixtures("needs_lab")
@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_command_ends_when_nobody_reads(arguments: list[str]) -> None:
    with subprocess.Popen([*WATCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=PLAIN) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline()
        # All is there that is shown at first.
        while select.select([watch.stdout], [], [], 0.2)[0]:
            os.read(watch.stdout.fileno(), 65536)
        watch.stdout.close()
        watch.stdout = None
        subprocess.run(["ip", "link", "add", "en0", "type", "veth", "peer", "name", "en1"], check=True)
        _, told = watch.communicate(timeout=DEADLINE)
    assert (watch.returncode, told) == (141, b"")


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_full_disk_is_status_5_with_a_message(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*WATCH, *arguments], stdout=full, stderr=subprocess.PIPE, env=PLAIN, check=False)
    assert done.returncode == 5
    assert done.stderr.startswith(b"trio-ipv4: [Errno 28] No space left on device\n")
    assert b"Traceback" not in done.stderr.partition(b"Exception ignored")[0]


ERRORS = [OSError("one"), ExceptionGroup("", [OSError("two")])]


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), 130, "Interrupted.\n"),
        (BrokenPipeError(), 141, ""),
        (OSError("one"), 5, "trio-ipv4: one\n"),
        (ExceptionGroup("", ERRORS), 5, "trio-ipv4: one\ntrio-ipv4: two\n"),
    ],
)
def test_an_error_has_its_status_and_its_words(
    error: BaseException, status: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(interfaces, "interfaces", fail)
    assert run_here(monkeypatch) == status
    assert capsys.readouterr() == ("", told)


def test_a_warning_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def warn() -> tuple[()]:
        warnings.warn("take care", stacklevel=1)
        return ()

    monkeypatch.setattr(interfaces, "interfaces", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run_here(monkeypatch) == 0
    assert capsys.readouterr() == ("", "trio-ipv4: warning: take care\n")


def run_here(monkeypatch: pytest.MonkeyPatch) -> int:
    """Run `trio-ipv4 interfaces` in this process."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # It is set there.
    monkeypatch.setattr(sys, "argv", ["trio-ipv4", "interfaces"])
    with pytest.raises(SystemExit) as ended:
        _cli.run()
    assert isinstance(ended.value.code, int)
    return int(ended.value.code)


@pytest.mark.pure
def test_the_statuses_are_those_that_scripts_know() -> None:
    assert {each.name: int(each) for each in Status} == {
        "DONE": 0,
        "NEGATIVE": 1,
        "USAGE": 2,
        "NOTHING": 3,
        "MULTICAST_ONLY": 4,
        "FAILED": 5,
        "INTERRUPTED": 130,
        "NOBODY_READS": 141,
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_whose_reader_has_stopped_reading(number: int) -> None:
    script = """
import sys, trio
from trio_ipv4._cli import interfaces, run
async def flood(output, seconds):
    async with interfaces.until_stopped(seconds):
        while True:
            output.show(interfaces.InterfaceListed(1, "x" * 4096, True, True, 1, (), ()))
            await trio.lowlevel.checkpoint()
interfaces._watch = flood
sys.argv = ["trio-ipv4", "interfaces", "--watch", "--json"]
run()
"""
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pipesize=65536) as process:
        queued = [-1, 0]
        while queued[-1] != queued[-2] or not queued[-1]:  # Until no further line fits.
            time.sleep(0.2)
            queued.append(struct.unpack("i", fcntl.ioctl(process.stdout, termios.FIONREAD, bytes(4)))[0])
        for _ in range(10):  # A signal ends a write that has waited for more than a second.
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
                break
        assert process.poll() == Status.INTERRUPTED
