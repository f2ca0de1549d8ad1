"""Who takes part, and how to talk to them (peers/protocol.md)."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
REPOSITORY: Final = HERE.parent.parent
DEADLINE: Final = 30
"""Seconds for one answer. Who needs longer has lost datagrams, or hangs."""


@dataclass(frozen=True)
class Contestant:
    name: str
    """Short, unique; for Python the argument of peer.py."""
    label: str
    language: str
    argument: str
    batches: bool = False
    """Whether the batch limit means anything to it."""
    shows_control: bool = False
    """Whether it receives control messages (DST, INTERFACE, TTL) and can show them."""
    offload: bool = False
    """Whether the sender uses UDP_SEGMENT, and the receiver UDP_GRO."""
    needs: tuple[str, ...] = ()
    """Modules that must be importable, or attributes of PacketConn, spelt `PacketConn.name`."""


LIBRARY: Final = ("trio_ipv4",)
OURS: Final = (*LIBRARY, "trio_ipv4._kernel.calls._mmsg")
"""With the compiled part; who is called pure does without it."""
PURE: Final = "pure Python"
_OFFLOAD: Final = ("PacketConn.receive_offload", "PacketConn.send_segmented")
GRO: Final = (*OURS, *_OFFLOAD)

FLOOR: Final = "c"
GO: Final = "go-batch"


def _python(name: str, label: str, **more: object) -> Contestant:
    """Python programs read control messages unless they say otherwise, and hand them over."""
    return Contestant(name, label, "Python", name, **more)  # type: ignore[arg-type]


DRAIN: Final = (
    Contestant(FLOOR, "C, recvmmsg, nothing parsed", "C", "floor", batches=True, shows_control=True),
    Contestant("c-parse", "C, recvmmsg, parsed and copied", "C", "parse", batches=True, shows_control=True),
    Contestant(GO, "Go, ReadBatch, parsed and copied", "Go", "batch", batches=True, shows_control=True),
    Contestant("go-single", "Go, ReadFrom with control message", "Go", "single", shows_control=True),
    _python("ours-batch", "trio_ipv4, receive_batch", needs=OURS, batches=True, shows_control=True),
    _python(
        "ours-batch-2048", "trio_ipv4, receive_batch, max_bytes=2048", needs=OURS, batches=True, shows_control=True
    ),
    _python("ours-batch-pure", f"trio_ipv4, receive_batch, {PURE}", needs=LIBRARY, batches=True, shows_control=True),
    _python("ours-single", "trio_ipv4, receive", needs=OURS, shows_control=True),
    _python("ours-single-pure", f"trio_ipv4, receive, {PURE}", needs=LIBRARY, shows_control=True),
    _python("ours-bare", "trio_ipv4, receive, no control flags", needs=OURS),
    _python(
        "ours-gro-batch", "trio_ipv4, receive_batch, UDP_GRO", needs=GRO, batches=True, offload=True, shows_control=True
    ),
    _python(
        "ours-gro-batch-pure",
        f"trio_ipv4, receive_batch, UDP_GRO, {PURE}",
        needs=(*LIBRARY, *_OFFLOAD),
        batches=True,
        offload=True,
        shows_control=True,
    ),
    _python("ours-gro-single", "trio_ipv4, receive, UDP_GRO", needs=GRO, offload=True, shows_control=True),
    _python("trio-recvmsg", "trio.socket.recvmsg, into the same values", needs=("trio", *LIBRARY), shows_control=True),
    _python("trio-recvmsg-unparsed", "trio.socket.recvmsg, nothing parsed", needs=("trio",)),
    _python("trio-recvfrom", "trio.socket.recvfrom", needs=("trio",)),
    _python("asyncio", "asyncio, DatagramProtocol"),
    _python("uvloop", "uvloop, DatagramProtocol", needs=("uvloop",)),
    _python("anyio-asyncio", "anyio on asyncio, receive", needs=("anyio",)),
    _python("anyio-trio", "anyio on trio, receive", needs=("anyio", "trio")),
)

SEND: Final = (
    Contestant(FLOOR, "C, sendmmsg", "C", "floor", batches=True),
    Contestant(GO, "Go, WriteBatch, control message marshalled", "Go", "batch", batches=True),
    Contestant("go-single", "Go, WriteTo with control message", "Go", "single"),
    _python("ours-batch", "trio_ipv4, send_batch of new values", needs=OURS, batches=True),
    _python("ours-batch-to", "trio_ipv4, send_batch_to", needs=(*OURS, "PacketConn.send_batch_to"), batches=True),
    _python("ours-batch-same", "trio_ipv4, send_batch of one value", needs=OURS, batches=True),
    _python("ours-batch-same-pure", f"trio_ipv4, send_batch of one value, {PURE}", needs=LIBRARY, batches=True),
    _python("ours-gro-batch", "trio_ipv4, send_segmented", needs=GRO, batches=True, offload=True),
    _python("ours-single", "trio_ipv4, send", needs=OURS),
    _python("ours-bare", "trio_ipv4, send_to, no control message", needs=OURS),
    _python("trio-recvmsg", "trio.socket.sendmsg", needs=("trio", *LIBRARY)),
    _python("trio-recvfrom", "trio.socket.sendto, no control message", needs=("trio",)),
    _python("asyncio", "asyncio, sendto, no control message"),
    _python("uvloop", "uvloop, sendto, no control message", needs=("uvloop",)),
    _python("anyio-asyncio", "anyio on asyncio, sendto, no control message", needs=("anyio",)),
    _python("anyio-trio", "anyio on trio, sendto, no control message", needs=("anyio", "trio")),
)

_IN_FLOW = (FLOOR, GO, "go-single", "ours-batch", "ours-single", "trio-recvmsg", "trio-recvfrom", "asyncio", "uvloop")
FLOW: Final = tuple(one for one in DRAIN if one.name in _IN_FLOW)


@dataclass(frozen=True)
class Answer:
    wall_ns: int
    cpu_ns: int
    count: int
    length: int
    ttl: int
    ifindex: int
    sent: int | None = None
    """How many were sent, where some may be lost."""


class Failed(Exception):
    """A contestant died, hung, lost datagrams, or answered nonsense."""


class Programs:
    """Compile what there is a compiler for, find an interpreter, and tell who is missing and why."""

    def __init__(self, directory: Path, python: str) -> None:
        self._directory: Final = directory
        self.python: Final = python
        self._missing: Final[dict[str, str]] = {}
        self._compile("C", "gcc", [*["gcc", "-O2", "-o"], str(directory / "peer-c"), str(HERE / "peers/peer.c")], {})
        go = {
            # Debian's golang-golang-x-net-dev puts the library here, without modules.
            "GOPATH": os.environ.get("BENCHMARK_GOPATH", "/usr/share/gocode"),
            "GO111MODULE": "off",
            "GOFLAGS": "",
            "GOCACHE": str(directory / "go-cache"),
        }
        self._compile("Go", "go", ["go", "build", "-o", str(directory / "peer-go"), str(HERE / "peers/peer.go")], go)

    def missing(self, contestant: Contestant) -> str | None:
        """Return why the contestant can't take part."""
        if contestant.language in self._missing:
            return self._missing[contestant.language]
        for need in contestant.needs:
            if need not in self._missing:
                self._missing[need] = self._lacks(need)
            if self._missing[need]:
                return self._missing[need]
        return None

    def start(self, contestant: Contestant, role: str) -> Peer:
        if contestant.language == "Python":
            return Peer([self.python, str(HERE / "peers/peer.py"), contestant.argument, role], self.environment())
        return Peer([str(self._directory / f"peer-{contestant.language.lower()}"), contestant.argument, role], None)

    def environment(self) -> dict[str, str]:
        """Let any interpreter import this checkout of trio_ipv4."""
        return {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def _compile(self, language: str, compiler: str, command: list[str], environment: dict[str, str]) -> None:
        if shutil.which(compiler) is None:
            self._missing[language] = f"{compiler} is not installed"
            return
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self._missing[language] = f"{compiler} failed: {' '.join(done.stderr.split())[:200]}"

    def _lacks(self, need: str) -> str:
        is_attribute = need.startswith("PacketConn.")
        code = f"import trio_ipv4; trio_ipv4.{need}" if is_attribute else f"import {need}"
        done = subprocess.run([self.python, "-c", code], env=self.environment(), capture_output=True, check=False)
        if done.returncode == 0:
            return ""
        return f"trio_ipv4 has no {need} yet" if is_attribute else f"{need} is not installed"


class Peer:
    """A contestant's process."""

    def __init__(self, command: list[str], environment: dict[str, str] | None) -> None:
        self._process: Final = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, bufsize=1
        )
        self.port = 0
        try:
            self.port = int(self._read("ready")[0])
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, *words: object) -> None:
        """Give a command."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(" ".join(map(str, words)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed("it died") from None

    def answer(self, seconds: float = DEADLINE) -> Answer:
        return Answer(*map(int, self._read("ok", seconds)))

    def do(self, *words: object) -> Answer:
        self.start(*words)
        return self.answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(2)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _read(self, expected: str, seconds: float = DEADLINE) -> list[str]:
        """Read one line. What precedes it on the pipe was answered before, so there is never more than one."""
        stdout = self._process.stdout
        assert stdout is not None
        deadline = time.monotonic() + seconds
        if not select.select([stdout], [], [], max(0, deadline - time.monotonic()))[0]:
            raise Failed(f"no answer within {seconds} s")
        first, *rest = stdout.readline().split() or ("",)
        if first != expected:
            raise Failed(f"answered {first!r}, not {expected!r}; exit status {self._process.poll()}")
        return rest
