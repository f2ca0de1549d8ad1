"""`trio-ipv4` as a command: usage, what it needs, and the list of interfaces."""

from __future__ import annotations

import ast
import json
import platform
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import version as version_of
from pathlib import Path

import pytest

import trio_ipv4
from trio_ipv4 import _cli
from trio_ipv4._kernel.calls.compiled import NOT_COMPILED

COMMAND = [sys.executable, "-m", "trio_ipv4"]
DEADLINE = 120
"""Seconds: no measure of anything, but an end."""
ODD_NAME = "\x1b[31mred"
WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *where):
        return None if f"{{name}}.".startswith("{module}.") else self.finder.find_spec(name, *where)

sys.meta_path[:] = map(Without, sys.meta_path)
from trio_ipv4.__main__ import main
main()
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=DEADLINE)


def run_without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command where a module can't be imported, as if it were not installed."""
    argv = [sys.executable, "-c", WITHOUT.format(module=module), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=DEADLINE)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout


def test_a_command_does_not_wait_for_the_others() -> None:
    script = """
import sys
from trio_ipv4 import _cli
sys.argv = ["trio-ipv4", "interfaces", "--json"]
try:
    _cli.run()
finally:
    print(*(name for name in _cli.COMMANDS if f"trio_ipv4._cli.{name}" in sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["interfaces", "lab"]  # `lab` marks where the words of its own commands begin.


@pytest.mark.parametrize("module", ["cattrs", "cyclopts", "rich"])
def test_without_the_extra_it_says_what_to_install(module: str) -> None:
    done = run_without(module, "demo")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"The command line needs {module}: pip install 'trio-ipv4[cli]', or '.[cli]' in a clone\n"


def test_another_missing_module_is_not_blamed_on_the_extra() -> None:
    done = run_without("trio_ipv4._cli.demo.texts", "demo")
    assert done.returncode == 5
    assert "pip install" not in done.stderr


def test_the_version_names_the_way_the_python_and_the_platform() -> None:
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()[:2]
    assert first == f"trio-ipv4 {version_of('trio-ipv4')}, {trio_ipv4.implementation().way}"
    assert second.startswith(f"{platform.python_implementation()} {platform.python_version()}")
    assert f", {platform.system()}-" in second


def test_the_version_says_how_to_get_the_compiled_part() -> None:
    done = run_without("trio_ipv4._kernel.calls._mmsg", "--version")
    text = " ".join(done.stdout.split())
    assert f"trio-ipv4 {version_of('trio-ipv4')}, ctypes" in text
    if sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert text.endswith(NOT_COMPILED)
    else:
        assert text.endswith("The compiled part is for CPython with a global interpreter lock.")


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_names_the_commands(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 0
    assert re.search(r"demo +Show multicast at work", done.stdout)
    assert re.search(r"interfaces +List the network interfaces", done.stdout)


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("demo", "--nonsense"), ("demo", "nonsense"), ("interfaces", "1")]
)
def test_wrong_usage_is_an_error(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "--help'" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_bash_completes_commands_and_options() -> None:
    script = run("completion", "bash").stdout
    function = re.search(r"-F (\w+) trio-ipv4$", script, re.MULTILINE)
    assert function is not None
    for words, expected in (("in", "interfaces"), ("interfaces --wa", "--watch"), ("completion z", "zsh")):
        asked = f"{script}\nCOMP_WORDS=(trio-ipv4 {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))"
        done = subprocess.run(
            ["bash", "-c", f'{asked}\n{function[1]}\necho "${{COMPREPLY[@]}}"'],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [expected]


@pytest.mark.usefixtures("needs_lab")
def test_interfaces_are_those_of_the_ip_program() -> None:
    ip("link", "add", "en0", "mtu", "1400", "type", "veth", "peer", "name", "en1")
    ip("address", "add", "198.18.0.1/24", "dev", "en0")
    ip("address", "add", "198.18.7.1/16", "dev", "en0")
    ip("link", "set", "en0", "up")
    ip("link", "set", "en1", "multicast", "off")
    done = run("interfaces", "--json")
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["name"] for each in listed] == ["lo", "en1", "en0"]
    expected = json.loads(ip("-json", "address"))
    for ours, theirs in zip(listed, expected, strict=True):
        assert ours["event"] == "interface"
        assert (ours["index"], ours["name"], ours["mtu"]) == (theirs["ifindex"], theirs["ifname"], theirs["mtu"])
        # The program shows RUNNING only by its absence, as one of two flags that it makes up.
        assert set(ours["flags"]) - {"RUNNING"} == set(theirs["flags"]) - {"NO-CARRIER", "M-DOWN"}
        assert ours["up"] == ("UP" in theirs["flags"])
        assert ours["multicast"] == ("MULTICAST" in theirs["flags"])
        assert ours["addresses"] == [
            f"{each['local']}/{each['prefixlen']}" for each in theirs["addr_info"] if each["family"] == "inet"
        ]


@pytest.mark.usefixtures("needs_lab")
def test_interfaces_as_a_table_say_the_same() -> None:
    ip("link", "add", "en0", "mtu", "1400", "type", "veth", "peer", "name", "en1")
    ip("address", "add", "198.18.0.1/24", "dev", "en0")
    heading, *rows = run("interfaces").stdout.splitlines()
    assert heading.split() == ["index", "name", "up", "multicast", "MTU", "addresses", "flags"]
    assert rows[0].split() == ["1", "lo", "yes", "no", "65536", "127.0.0.1/8", "UP", "LOOPBACK", "RUNNING", "LOWER_UP"]
    assert rows[2].split() == ["3", "en0", "no", "yes", "1400", "198.18.0.1/24", "BROADCAST", "MULTICAST"]


@pytest.mark.usefixtures("needs_lab")
def test_a_name_can_t_command_the_terminal() -> None:
    ip("link", "add", ODD_NAME, "type", "veth", "peer", "name", "en1")
    text = run("interfaces")
    assert (text.returncode, text.stderr) == (0, "")
    assert "\x1b" not in text.stdout
    assert "\\x1b[31mred" in text.stdout
    listed = [json.loads(line) for line in run("interfaces", "--json").stdout.splitlines()]
    assert ODD_NAME in {each["name"] for each in listed}


def test_a_fault_of_its_own_has_a_status_that_means_nothing_else() -> None:
    script = """
import sys
from trio_ipv4 import _cli

def broken():
    raise KeyError("a fault")

_cli.app.command(broken, name="broken")
sys.argv = ["trio-ipv4", "broken"]
_cli.run()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "KeyError: 'a fault'" in done.stderr
    assert done.stderr.endswith("trio-ipv4: this is a fault in trio-ipv4. Please report it, with the lines above\n")


def test_a_full_disk_is_an_error_without_a_traceback() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, "interfaces"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode != 0
    assert "trio-ipv4: [Errno 28] No space left on device\n" in done.stderr
    assert "Traceback" not in done.stderr.partition("Exception ignored")[0]


@pytest.mark.pure
def test_it_imports_only_the_public_package() -> None:
    for path in Path(_cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                own = module.startswith("trio_ipv4._cli")
                public = module in {"trio_ipv4", "trio_ipv4.testing"}
                assert own or public or not module.startswith("trio_ipv4."), (path.name, module)
