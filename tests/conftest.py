"""Every test of the kernel gets a network of its own; nothing is sent or joined on the machine's interfaces."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio
import trio._core._thread_cache
from hypothesis import settings

import trio_ipv4
from support import here
from support.systems import WAYS, calls_by, on
from trio_ipv4 import UnsupportedError
from trio_ipv4._kernel.native import NativeSystem
from trio_ipv4.testing import Lab, lab_available, open_lab, private_network

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import Protocol

    from trio_ipv4.testing import Network

    class WaitUntil(Protocol):
        def __call__(self, condition: Callable[[], object], *, seconds: float = ...) -> None: ...

    class AsNobody(Protocol):
        def __call__(self, argv: list[str]) -> list[str]: ...

    class Eventually(Protocol):
        def __call__(self, condition: Callable[[], object], *, seconds: float = ...) -> Awaitable[None]: ...


pytest_plugins = ["trio_ipv4.testing.pytest_plugin"]
# No test is about time, and the first one after a change pays for imports.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")
HERE = Path(__file__).parent
LOOK_AGAIN = 0.002
"""Seconds between two looks at a condition, so as not to starve whom we wait for."""
PURE = {"abi", "codec", "typing", "values"}
"""The rooms whose tests ask the kernel for nothing, and run everywhere."""


ONE_PYTHON = {
    # The kernel, other programs, C, and documents decide these, whatever Python and trio.
    "abi/test_against_c.py",
    "cli/test_demo.py",
    "cli/test_doctor_command.py",
    "cli/test_doctor_deep.py",
    "cli/test_doctor_disturbs.py",
    "cli/test_doctor_faults.py",
    "cli/test_doctor_looks.py",
    "cli/test_doctor_tables.py",
    "cli/test_groups.py",
    "cli/test_lab_command.py",
    "cli/test_listen.py",
    "cli/test_ping.py",
    "cli/test_send.py",
    "cli/test_watch.py",
    "cli/test_watch_agreement.py",
    "conn/test_attach_filter.py",
    "conn/test_bounds.py",
    "conn/test_kernel_limits.py",
    "conn/test_lab_membership.py",
    "conn/test_ledger_stateful.py",
    "examples",
    "conn/test_errors_of_a_user.py",
    "conn/test_refresh.py",
    "conn/test_reports.py",
    "interfaces/test_flapping_stateful.py",
    "interfaces/test_many_links.py",
    "kernel/test_causes.py",
    "kernel/test_errno_table.py",
    "kernel/test_interface_names.py",
    "kernel/test_missing_facilities.py",
    "network_faults",
    "package/test_build.py",
    "package/test_front_page.py",
    "peers",
    "testing",
    "tools",
}
"""Folders and files whose tests a second Python need not run: `--second-python` leaves them out."""


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "leave out the tests that a second Python need not run, and write their number to FILE"
    parser.addoption("--second-python", metavar="FILE", help=help_text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (report := config.getoption("--second-python")) is None:
        return
    left_out = [item for item in items if not ONE_PYTHON.isdisjoint(places(item))]
    items[:] = [item for item in items if ONE_PYTHON.isdisjoint(places(item))]
    config.hook.pytest_deselected(items=left_out)
    if getattr(config, "workerinput", {"workerid": "gw0"})["workerid"] == "gw0":  # One of pytest-xdist's workers.
        Path(report).write_text(str(len(left_out)), encoding="ascii")


def places(item: pytest.Item) -> set[str]:
    """The file of a test and its folder, as `ONE_PYTHON` has them."""
    path = item.path.relative_to(HERE)
    return {path.as_posix(), path.parts[0]}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests for both networks on each; one that takes the ways to call the kernel has none when simulated."""
    own = {marker.args[0] for marker in metafunc.definition.iter_markers("parametrize")}
    if not [*metafunc.definition.iter_markers("both_networks")]:
        if "calls" in metafunc.fixturenames and "calls" not in own:
            metafunc.parametrize("calls", WAYS, indirect=True)
        return
    needs_kernel = [*metafunc.definition.iter_markers("kernel_only")] or "needs_lab" in metafunc.fixturenames
    networks = ("kernel",) if needs_kernel else ("kernel", "simulated")
    if "calls" in metafunc.fixturenames and "calls" not in own:
        pairs = [(network, way) for network in networks for way in (WAYS if network == "kernel" else ("own",))]
        metafunc.parametrize(("private_net", "calls"), pairs, indirect=True)
    else:
        metafunc.parametrize("private_net", networks, indirect=True)


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what runs in its background with Ctrl-C ignored, and Python then leaves it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "both_networks: the test runs on the kernel and on a simulated network")
    config.addinivalue_line("markers", "kernel_only(reason): of a file for both networks, this one needs the kernel")
    config.addinivalue_line("markers", "pure: the test asks the kernel for nothing, and gets no network of its own")


@pytest.fixture(autouse=True)
def private_net(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the test in a network namespace of its own, with nothing but its loopback, unless the test is pure.

    A test for both networks runs on a host of a simulated one, too; then the namespace is for what it does by accident.
    """
    if request.path.relative_to(HERE).parts[0] in PURE or request.node.get_closest_marker("pure"):
        yield
        return
    # A worker thread of trio's stays in the namespace in which it was started, and is used again by later tests:
    # `trio.to_thread.run_sync` and `trio.run_process`, which starts its processes there, would find themselves in the
    # network of a test that is over. So each test has its own pool. (`Host.command` names the namespace, and does not
    # care.)
    monkeypatch.setattr(trio._core._thread_cache, "THREAD_CACHE", trio._core._thread_cache.ThreadCache())
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(private_network())
        except (OSError, UnsupportedError) as refusal:
            unavailable(str(refusal))
        if getattr(request, "param", "kernel") == "simulated":
            stack.enter_context(here.simulated_host())
        yield


@pytest.fixture(scope="session")
def lab_refusal() -> str | None:
    """Why no lab can be made here; found out once."""
    return lab_available()


@pytest.fixture
def needs_avahi() -> None:
    """Skip the test where Avahi, or a program that it needs, is not installed."""
    needed = ("avahi-daemon", "avahi-browse", "avahi-resolve", "dbus-daemon")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture
def needs_lab(lab_refusal: str | None) -> None:
    """Let the test run only where labs can be made: `pytest.mark.usefixtures("needs_lab")`."""
    if lab_refusal is not None:
        unavailable(lab_refusal)


@pytest.fixture
def lab(needs_lab: None) -> Iterator[Lab]:
    """Two hosts, "a" and "b", on one link."""
    with open_lab() as lab:
        yield lab


@pytest.fixture
def two_links(private_net: None, request: pytest.FixtureRequest) -> Iterator[Network]:
    """Two hosts, "a" and "b", on two links that are plain cables: in a lab or simulated, as the test is."""
    if here.machine() is None:
        request.getfixturevalue("needs_lab")
    with here.two_hosts(2) as network:
        yield network


@pytest.fixture
def calls(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test with each way to call the kernel: `pytest.mark.usefixtures("calls")`."""
    if request.param == "own":  # A simulated network's.
        yield request.param
        return
    with on(NativeSystem(calls=calls_by(request.param))):
        yield request.param


@pytest.fixture
def wait_until() -> WaitUntil:
    """Wait, blocking, until a condition holds: `wait_until(lambda: group in igmp_groups())`."""

    def wait(condition: Callable[[], object], *, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} seconds"
            time.sleep(LOOK_AGAIN)

    return wait


@pytest.fixture
def eventually() -> Eventually:
    """Wait, letting other tasks run, until a condition holds: `await eventually(lambda: group in igmp_groups())`."""

    async def wait(condition: Callable[[], object], *, seconds: float = 20) -> None:
        with trio.move_on_after(seconds):
            while not condition():  # noqa: ASYNC110  # The kernel sets no events.
                await trio.sleep(LOOK_AGAIN)
            return
        pytest.fail(f"not within {seconds} seconds")

    return wait


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it where kernel tests are required to run."""
    if os.environ.get("TRIO_IPV4_REQUIRE_LAB") == "1":
        pytest.fail(f"TRIO_IPV4_REQUIRE_LAB is 1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def as_nobody(tmp_path: Path) -> AsNobody:
    """Return what makes of a command one that runs as another user, without any privilege."""
    if os.geteuid() != 0 or int(Path("/proc/self/uid_map").read_text().split()[2]) <= 65534:
        pytest.skip("only the machine's root can become another user")

    def make(argv: list[str]) -> list[str]:
        # What is needed may be in a directory of root's: in a private mount namespace, an empty directory is mounted
        # there, and what is needed is mounted in that.
        needed = {Path(sys.base_prefix), Path(sys.prefix), Path(trio_ipv4.__file__).parents[1]}
        closed = {path: top for path in needed for top in reversed((path, *path.parents)) if not top.stat().st_mode & 1}
        script = []
        for number, path in enumerate(closed):
            (tmp_path / str(number)).mkdir()
            script.append(f"mount --bind '{path}' '{tmp_path}/{number}'")
        script += [f"mount -t tmpfs -o mode=755 tmpfs '{top}'" for top in set(closed.values())]
        script += [
            f"mkdir -p '{path}' && mount --bind '{tmp_path}/{number}' '{path}'" for number, path in enumerate(closed)
        ]
        become = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
        ]
        # Another user can't write where coverage is measured.
        unmeasured = ["env", "-u", "COVERAGE_PROCESS_START", "-u", "COVERAGE_PROCESS_CONFIG"]
        shell = ["sh", "-c", " && ".join([*script, 'cd / && exec "$@"']), "sh"]
        return ["unshare", "--mount", *shell, *become, *unmeasured, *argv]

    return make
