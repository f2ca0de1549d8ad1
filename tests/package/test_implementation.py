"""What is told of the installation; and a compiled part that doesn't fit is passed over, never an error."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

import pytest

import trio_ipv4
from trio_ipv4._abi.darwin import DARWIN
from trio_ipv4._abi.this import IS_FREE_THREADED
from trio_ipv4._kernel.calls.choice import NEEDS_LINUX, choose
from trio_ipv4._kernel.calls.compiled import AGAIN, NOT_COMPILED

if TYPE_CHECKING:
    from pathlib import Path

ONLY_CPYTHON = "The compiled part is for CPython with a global interpreter lock."
FITS = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
LOOK = """
import json, sys
import trio_ipv4._kernel.calls as calls
calls.__path__.insert(0, sys.argv[1])
import trio, trio_ipv4
how = trio_ipv4.implementation()
async def loop():
    async with trio_ipv4.open_udp("127.0.0.1", 0) as conn:
        for _ in range(3):  # Full batches, the second of which is compared with the first.
            await conn.send_batch_to([b"x"] * 4, conn.local_endpoint)
            assert [each.payload for each in await conn.receive_batch(4)] == [b"x"] * 4
trio.run(loop)
print(json.dumps([how.way, how.reason]))
"""


def found_in(directory: Path) -> tuple[str, str | None]:
    """Return what is told where the compiled part is looked for in a directory first, and datagrams pass."""
    command = [sys.executable, "-W", "error", "-c", LOOK, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    way, reason = json.loads(done.stdout)
    return way, reason


SUFFIXES = ("abi3.so", "so", sysconfig.get_config_var("EXT_SUFFIX").lstrip("."))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"garbage\n" * 1000, b"\x7fELF" + bytes(1000)])
def test_a_file_that_is_no_extension_is_passed_over(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"_mmsg.{suffix}").write_bytes(content)
    way, reason = found_in(tmp_path)
    loaded = suffix in {each.lstrip(".") for each in importlib.machinery.EXTENSION_SUFFIXES}
    if not FITS:
        assert (way, reason) == ("ctypes", ONLY_CPYTHON)
    elif loaded:
        assert way == "ctypes"
        assert str(reason).startswith("The compiled part can't be loaded: ")
        assert str(reason).endswith(AGAIN)


@pytest.mark.parametrize("failure", ["raise SystemError('no')", "raise ImportError('no')", "1 / 0", "import nonsense"])
def test_a_compiled_part_that_raises_is_passed_over(tmp_path: Path, failure: str) -> None:
    (tmp_path / "_mmsg.py").write_text(failure)
    way, reason = found_in(tmp_path)
    assert way == "ctypes"
    assert str(reason).endswith(AGAIN if FITS else ONLY_CPYTHON)


def test_a_compiled_part_of_another_version_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "_mmsg.py").write_text("receive = values = send = print")
    lacking = f"The compiled part lacks `columns`. {AGAIN}"
    assert found_in(tmp_path) == ("ctypes", lacking if FITS else ONLY_CPYTHON)


def test_an_extension_of_another_name_is_passed_over(tmp_path: Path) -> None:
    """A real one of this Python's, or of none: it has no function to initialize ours."""
    built = importlib.util.find_spec("_testcapi") or importlib.util.find_spec("_ctypes")
    if built is None or built.origin is None or not built.has_location:
        pytest.skip("this Python has its extensions built in")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (tmp_path / f"_mmsg{suffix}").symlink_to(built.origin)
    way, reason = found_in(tmp_path)
    assert way == "ctypes"
    assert str(reason).endswith(AGAIN if FITS else ONLY_CPYTHON)


def test_the_way_is_told_for_each_platform() -> None:
    assert choose(DARWIN)[1] == trio_ipv4.Implementation("one by one", NEEDS_LINUX)
    how = trio_ipv4.implementation()
    assert how.way in ({"compiled", "ctypes"} if sys.platform == "linux" else {"one by one"})
    assert (how.reason is None) is (how.way == "compiled")
    assert how.reason in {None, NOT_COMPILED, ONLY_CPYTHON, NEEDS_LINUX}


def test_free_threaded_python_is_told_apart() -> None:
    assert bool(sysconfig.get_config_var("Py_GIL_DISABLED")) is IS_FREE_THREADED


def test_the_version_is_the_distribution_s() -> None:
    assert trio_ipv4.__version__ == importlib.metadata.version("trio-ipv4")
    with pytest.raises(AttributeError, match="module 'trio_ipv4' has no attribute 'nonsense'"):
        trio_ipv4.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_the_version_costs_nothing_until_it_is_asked_for() -> None:
    code = "import sys, trio_ipv4; print('importlib.metadata' in sys.modules, trio_ipv4.__version__)"
    # Without site-packages' start-up files, which may import it.
    path = ":".join(sys.path)
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {path.split(':')!r}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"False {trio_ipv4.__version__}\n"
