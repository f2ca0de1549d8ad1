"""A host of the lab: a network namespace, and the programs that change it."""

from __future__ import annotations

import errno
import inspect
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, TypeVarTuple, Unpack, cast, final

import trio

from trio_ipv4 import Interface, interfaces
from trio_ipv4._kernel.system import CURRENT
from trio_ipv4.testing._systems import CalledSystem, HostSystem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from ipaddress import IPv4Address, IPv4Interface

    from trio_ipv4.testing._namespaces import Namespace

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PROGRAMS: Final = {"ip": "iproute2", "nsenter": "util-linux"}
"""Which the lab needs, and Debian's packages of them."""
_SYSTEM_PATH: Final = "/usr/sbin:/sbin"
"""Where distributions keep `ip`, and where an ordinary user's PATH may not lead."""


@final
class LabHost:
    """A host of a lab: a network namespace. `name` is its name."""

    def __init__(self, name: str, namespace: Namespace, ends: Mapping[str, IPv4Interface]) -> None:
        self.name: Final = name
        self._namespace: Final = namespace
        self._ends: Final = ends
        self._system: Final = HostSystem(namespace)
        self._called: Final = CalledSystem(namespace)

    async def run(
        self,
        function: Callable[[Unpack[Ts]], Awaitable[T]],
        /,
        *args: *Ts,
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> T:
        """Run an asynchronous function on the host, and return what it returns.

            await lab["a"].run(main)
            interfaces = await nursery.start(lab["a"].run, partial(serve_group, handler, "239.1.2.3", 5000))

        An unmodified program will do. Whatever it, and the tasks and worker threads that it starts, opens, lists,
        watches, follows or serves with this library belongs to the host. The context says so (`contextvars`), and tasks
        inherit it; the thread stays where it is, so other tasks are not concerned. A connection that is opened here
        stays the host's, wherever it is used.

        Sockets that are made without this library, and processes, are not moved: see `call` and `command`. It is a
        checkpoint if the function is one.

        Args:
            function: An asynchronous function, and its positional arguments.
            *args: Its positional arguments.
            task_status: For `nursery.start`, which the function then gets.

        Raises:
            trio.ClosedResourceError: In the function, when it opens or lists something: the lab has ended.
        """
        token = CURRENT.set(self._system)
        try:
            if task_status is trio.TASK_STATUS_IGNORED:
                return await function(*args)
            return await cast("Callable[..., Awaitable[T]]", function)(*args, task_status=task_status)
        finally:
            CURRENT.reset(token)

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a synchronous function in the host, and return what it returns. For asynchronous ones, see `run`.

        The sockets that it makes, and the processes that it starts, belong to the host. The calling thread itself goes
        there, and is back before this returns or raises; so do not let the function start threads that stay.

        Raises:
            OSError: The kernel refused to enter; or what the function raises.
            RuntimeError: The thread can't go back. Everything in it would be in the wrong network: end the process.
            TypeError: `function` is a coroutine function, which would run after the way back.
            trio.ClosedResourceError: The lab has ended.
        """
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"function must be synchronous, got the coroutine function {function!r}")
        token = CURRENT.set(self._called)
        try:
            return self._namespace.call(function, *args, **kwargs)
        finally:
            CURRENT.reset(token)

    def command(self, argv: Sequence[str | os.PathLike[str]]) -> list[str]:
        """Return what runs a command in the host, for `trio.run_process` or `subprocess.run`.

        It is nsenter(1), which needs the privilege that the lab does. It names the host by this process, so it works
        while this process and the lab live, from any thread, whatever the thread's namespace is.

        Raises:
            FileNotFoundError: nsenter(1) is missing.
            TypeError: `argv` is a single string.
            trio.ClosedResourceError: The lab has ended.
        """
        if isinstance(argv, str):
            raise TypeError(f"argv must be a sequence of arguments, got the single string {argv!r}")
        return [find_program("nsenter"), f"--net={self.namespace}", "--", *(os.fspath(each) for each in argv)]

    def ip(self, *arguments: str) -> str:
        """Run `ip` (iproute2) in the host, blocking, and return its output.

        For changes of links and routes: `host.ip("link", "set", "en0", "down")`.

        Raises:
            FileNotFoundError: ip(8) is missing.
            subprocess.CalledProcessError: It failed; the message holds its output.
            trio.ClosedResourceError: The lab has ended.
        """
        return self.call(_run_ip, arguments)

    @property
    def namespace(self) -> str:
        """A path that opens the namespace, for `ip link set ... netns` in another host, or setns(2)."""
        return self._namespace.path

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """The interfaces as they are now, loopback aside: first those of the lab in the links' order, then others."""
        ends = list(self._ends)
        found = (each for each in self.call(interfaces) if not each.is_loopback)
        return tuple(
            sorted(found, key=lambda each: (ends.index(each.name) if each.name in ends else len(ends), each.index))
        )

    @property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """The addresses that the lab gave to the host, in the links' order."""
        return tuple(address.ip for address in self._ends.values())

    def __repr__(self) -> str:
        return f"<Host {self.name} {', '.join(map(str, self.addresses))}>"


@final
class ProgramError(subprocess.CalledProcessError):
    """A `CalledProcessError` whose message holds the program's output."""

    def __str__(self) -> str:
        return f"{super().__str__()} {str(self.stderr).strip()}"


def run_script(script: Sequence[str]) -> None:
    _run_ip(("-batch", "-"), "\n".join([*script, ""]))


def _run_ip(arguments: Sequence[str], script: str = "") -> str:
    argv = [find_program("ip"), *arguments]
    done = subprocess.run(argv, input=script, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProgramError(done.returncode, argv, done.stdout, done.stderr)
    return done.stdout


def find_program(program: str) -> str:
    found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{_SYSTEM_PATH}")
    if found is None:
        raise FileNotFoundError(errno.ENOENT, f"the program `{program}` is missing (package {PROGRAMS[program]})")
    return found
