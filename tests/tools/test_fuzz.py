"""The parsers take any octets: the kept corpus, damaged in every octet; a short hunt where atheris is; and time."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from targets import TARGETS

FUZZ = Path(__file__).parents[2] / "tools" / "fuzz"

pytestmark = pytest.mark.pure
each_target = pytest.mark.parametrize("target", TARGETS)


def corpus(target: str) -> list[bytes]:
    found = [path.read_bytes() for path in sorted((FUZZ / "corpus" / target).iterdir())]
    assert found
    return found


def seed(target: str) -> bytes:
    return max((path.read_bytes() for path in (FUZZ / "corpus" / target).glob("seed-*")), key=len)


GROWN = {
    "bpf": b"4096\n" + b"40 0 0 12\n" * 4096,
    "header": seed("header") + bytes(100_000),
    # Time exceeded, 128 octets quoted, then objects of an extension as far as it goes.
    "icmp": bytes.fromhex("0b00000000200000") + bytes(128) + bytes.fromhex("20000000") + b"\0\x04\xff\1" * 10_000,
    # A report of version 3, and records as far as it goes.
    "igmp": bytes.fromhex("22000000 00002ee0") + bytes.fromhex("01000000 ef010203") * 12_000,
    "packet": seed("packet") + bytes(100_000),
    "source_filters": bytes(136) + (1).to_bytes(4, "little") + (800).to_bytes(4, "little") + bytes(range(256)) * 400,
}


@each_target
def test_takes_the_corpus(target: str) -> None:
    for data in corpus(target):
        TARGETS[target](data)


@each_target
def test_takes_the_seeds_cut_off_and_damaged_anywhere(target: str) -> None:
    chance = random.Random(target)  # The same damage each time.
    for path in sorted((FUZZ / "corpus" / target).glob("seed-*")):
        data = path.read_bytes()
        for i in range(min(len(data), 300)):
            TARGETS[target](data[:i])
            for octet in (0, 0x7F, 0x80, 0xFF, chance.randrange(256)):
                TARGETS[target](data[:i] + bytes([octet]) + data[i + 1 :])


@each_target
def test_time_and_memory_grow_no_faster_than_the_input(target: str) -> None:
    # Seeds without end, as far as their kind can have that. Linear work takes some tens of milliseconds, quadratic work
    # minutes.
    data = GROWN.get(target) or seed(target) * (100_000 // len(seed(target)))
    TARGETS[target](data)
    begin = time.process_time()
    TARGETS[target](data)
    assert time.process_time() - begin < 5
    tracemalloc = pytest.importorskip("tracemalloc", reason="PyPy lacks it", exc_type=ImportError)
    tracemalloc.start()
    try:
        TARGETS[target](data)
        assert tracemalloc.get_traced_memory()[1] < 200 * len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris, which is for CPython 3.11, is missing"
)
@each_target
def test_survives_a_short_hunt(target: str) -> None:
    command = [sys.executable, str(FUZZ / "run.py"), "--seconds", "2", target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "number_of_executed_units" in done.stdout
