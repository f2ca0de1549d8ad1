"""Which rooms may touch the system, by reading the code. import-linter holds the arrows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import trio_ipv4

pytestmark = pytest.mark.pure

PACKAGE = Path(trio_ipv4.__file__).parent
TOUCHES_THE_SYSTEM = {"_socket", "ctypes", "fcntl", "mmap", "os", "select", "socket"}
EXEMPT = {
    "testing": "it makes network namespaces",
    "_cli": "a program like any other, which has terminals, processes and files besides",
}


def imports(path: Path) -> set[str]:
    """The top-level modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def rooms() -> list[Path]:
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def test_only_the_kernels_room_touches_the_system() -> None:
    outside = [path for path in rooms() if path.parts[0] not in {"_kernel", *EXEMPT}]
    assert len(outside) > 40
    assert {str(path): found for path in outside if (found := imports(PACKAGE / path) & TOUCHES_THE_SYSTEM)} == {}


def test_no_room_asks_which_platform_this_is() -> None:
    """A platform belongs to a system. Two ask for this interpreter's: the real system, and a value without a socket."""
    asking = [
        str(path)
        for path in rooms()
        if "this_platform" in (PACKAGE / path).read_text() and path != Path("_abi/this.py")
    ]
    assert asking == ["_kernel/native.py", "_values/control.py"]
    named = [
        str(path) for path in rooms() if "sys.platform" in (PACKAGE / path).read_text() and path.parts[0] != "testing"
    ]
    # Two docstrings, the one that asks, and commands that open a packet socket, or load eBPF, by themselves.
    commands = ["_cli/doctor/witnesses/drops/syscalls.py", "_cli/packet_socket.py"]
    assert named == ["_abi/platform.py", "_abi/this.py", *commands, "_errors.py"]


def test_one_module_chooses_how_to_call() -> None:
    asking = [str(path) for path in rooms() if "load_extension" in (PACKAGE / path).read_text()]
    assert asking == ["_kernel/calls/choice.py", "_kernel/calls/compiled.py"]
