from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_ipv4._values.checksum import internet_checksum


def reference(data: bytes) -> int:
    """RFC 1071 section 4.1, word by word."""
    total = 0
    for index in range(0, len(data), 2):
        total += data[index] << 8 | (data[index + 1] if index + 1 < len(data) else 0)
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(st.binary(max_size=200))
@example(b"")
@example(b"\0")
@example(b"\xff\xff")
@example(b"\xff\xff\xff\xff")
@example(b"\xff")
@example(b"\0\1\xff\xfe")
@example(b"\0" * 41)
def test_it_equals_the_sum_word_by_word(data: bytes) -> None:
    assert internet_checksum(data) == reference(data)


@pytest.mark.parametrize("data", [b"\xff" * 65535, bytes(65535), bytes(range(256)) * 255])
def test_it_holds_for_the_longest_datagrams(data: bytes) -> None:
    assert internet_checksum(data) == reference(data)


def test_it_agrees_with_the_rfcs_example() -> None:
    # RFC 1071 section 3: the sum is ddf2.
    assert internet_checksum(bytes.fromhex("0001 f203 f4f5 f6f7")) == 0xDDF2 ^ 0xFFFF


@given(st.binary(max_size=100).map(lambda data: data + bytes(len(data) % 2)))
def test_what_holds_its_checksum_sums_to_zero(data: bytes) -> None:
    assert internet_checksum(data + internet_checksum(data).to_bytes(2, "big")) == 0


@given(st.binary(max_size=50))
def test_any_bytes_like_object_will_do(data: bytes) -> None:
    assert internet_checksum(bytearray(data)) == internet_checksum(memoryview(data)) == internet_checksum(data)


@pytest.mark.parametrize("data", ["text", 20, None, True])
def test_what_is_not_bytes_is_refused(data: Any) -> None:
    with pytest.raises(TypeError, match="data must be bytes, got "):
        internet_checksum(data)
