"""`python -m trio_ipv4.testing`, and the reasons why there may be no lab."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trio_ipv4.testing import _command, _lab_host, lab_available

if TYPE_CHECKING:
    from collections.abc import Callable

RUN = [sys.executable, "-m", "trio_ipv4.testing"]
PYTHON = [sys.executable, "-c"]
WITHOUT_PRIVILEGES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
# Root, but without CAP_SYS_ADMIN, as in a container; who maps root must have CAP_SETFCAP (user_namespaces(7)).
AS_CONTAINER_ROOT = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all"]
ASK = "from trio_ipv4.testing import lab_available; print(lab_available())"
LAB = """
import os, socket
from trio_ipv4.testing import open_lab
assert os.geteuid() == 0
assert [name for _, name in socket.if_nameindex()] == ["lo"]
with open_lab(links=2, router=True) as lab:
    import subprocess
    print(subprocess.check_output(lab["a"].command(["ip", "-brief", "address", "show", "en1"]), text=True).split()[2])
"""


def run(argv: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_the_exit_status_is_the_command_s() -> None:
    assert run([*RUN, *PYTHON, "raise SystemExit(7)"]).returncode == 7
    assert run([*RUN, "--", *PYTHON, "raise SystemExit(8)"]).returncode == 8


def test_the_network_is_private_and_the_loopback_up() -> None:
    program = "import os, socket; socket.create_server(('127.0.0.1', 0)); print(os.readlink('/proc/self/ns/net'))"
    done = run([*RUN, *PYTHON, program])
    assert done.stdout.startswith("net:[")
    assert done.stdout.strip() != str(Path("/proc/thread-self/ns/net").readlink())


def test_labs_work_in_it(needs_lab: None) -> None:
    done = run([*RUN, *PYTHON, LAB])
    assert (done.stdout.strip(), done.stderr) == ("198.18.1.1/24", "")


def test_labs_work_in_it_without_root(needs_lab: None) -> None:
    done = run([*AS_CONTAINER_ROOT, *RUN, *PYTHON, LAB])
    assert (done.stdout.strip(), done.stderr) == ("198.18.1.1/24", "")


def test_labs_work_in_it_for_any_user(needs_lab: None, as_nobody: Callable[[list[str]], list[str]]) -> None:
    done = run(as_nobody([*RUN, *PYTHON, LAB]))
    assert (done.stdout.strip(), done.stderr) == ("198.18.1.1/24", "")


def test_files_belong_to_the_same_user_outside(tmp_path: Path) -> None:
    written = tmp_path / "written"
    assert run([*AS_CONTAINER_ROOT, *RUN, "touch", str(written)]).returncode == 0
    assert written.stat().st_uid == os.geteuid()


def test_what_python_ignores_is_not_ignored_in_the_command() -> None:
    done = run([*RUN, "grep", "SigIgn", "/proc/self/status"])
    ignored = int(done.stdout.split()[1], 16)
    assert not any(ignored >> (number - 1) & 1 for number in (signal.SIGPIPE, signal.SIGXFSZ))


@pytest.mark.parametrize("arguments", [[], ["--"], ["--nonsense"]])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = run([*RUN, *arguments])
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m trio_ipv4.testing COMMAND")


def test_help_is_no_error() -> None:
    done = run([*RUN, "--help"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "COMMAND" in done.stdout


def test_a_missing_program_is_status_127(tmp_path: Path) -> None:
    assert run([*RUN, str(tmp_path / "missing")]).returncode == 127
    assert run([*RUN, str(tmp_path)]).returncode == 126


def test_a_forbidden_user_namespace_is_explained() -> None:
    # The limit holds for the user namespace in which it is set and those below: here one that is made for this.
    script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    done = run([*AS_CONTAINER_ROOT, *RUN, "sh", "-c", script, "sh", *AS_CONTAINER_ROOT, *RUN, "true"])
    assert done.returncode == 125
    assert "user.max_user_namespaces is 0; more than 0 allows them" in done.stderr


def test_a_lab_is_available_or_the_reason_is_told(lab_refusal: str | None) -> None:
    assert lab_refusal is None or lab_refusal


def test_without_privileges_the_reason_is_how_to_get_them() -> None:
    done = run([*WITHOUT_PRIVILEGES, *PYTHON, ASK])
    assert "can't enter a network namespace: Operation not permitted" in done.stdout
    assert "python -m trio_ipv4.testing COMMAND" in done.stdout


@pytest.mark.parametrize(("program", "package"), [("ip", "iproute2"), ("nsenter", "util-linux")])
def test_a_missing_program_is_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, package: str
) -> None:
    for other in {"ip", "nsenter"} - {program}:
        (tmp_path / other).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(_lab_host, "_SYSTEM_PATH", str(tmp_path))
    reason = lab_available()
    assert reason is not None
    assert f"the program `{program}` is missing (package {package})" in reason


def test_what_ip_says_is_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "ip"
    fake.write_text("#!/bin/sh\necho 'Error: Unknown device type.' >&2\nexit 2\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    reason = lab_available()
    assert reason is not None
    assert "Unknown device type" in reason


def test_another_platform_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert lab_available() == "network labs need Linux, and this is darwin"


def test_the_usage_names_every_status() -> None:
    assert all(status in _command.USAGE for status in ("2", "125", "126", "127"))
