"""Network namespaces with names, so that shell scripts and other users' programs can be run in them.

`enter_private` makes a process the first of its own namespaces: of networks, of mounts and of processes. So nothing
that a lab does touches the machine, labs side by side see nothing of each other, and all of a lab ends with that
process, however that ends. In there `Network` makes a switch ("sw", one bridge for each link), hosts and a router.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from network_faults.fault import Beside, Topology

NUMBERS: Final = {"a": 1, "b": 2, "c": 3, "d": 4, "r": 254}
TESTS: Final = Path(__file__).parents[1]
RUN: Final = Path("/run/faults")
"""For outputs and counts. A private file system is mounted on /run, where `ip netns` keeps its names, too."""
QUIET: Final = (
    "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 "
    "net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0; ip link set lo up"
)
PRUNES_AFTER: Final = 1.3
"""Seconds. A bridge floods for one query response interval (set to 1 s here) after its querier was turned on."""
HELPER: Final = 'helper() { "$PYTHON" -S -m "network_faults.$1" "${@:2}"; }\n'
UNSHARE: Final = (
    # It ends with whoever started it, and takes all that it holds along.
    *("setpriv", "--pdeathsig", "KILL", "--"),
    *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
)


class NetworkError(Exception):
    """A network could not be made as it was meant."""


def enter_private() -> None:
    """Prepare the namespaces that `UNSHARE` made: to be called once, first of all, by the process that it started."""
    if os.getpid() != 1:
        raise NetworkError(f"this has to be started by: {' '.join(UNSHARE)} COMMAND")
    shell(f"mount -t tmpfs -o mode=755 none {RUN.parent}; mkdir {RUN}; ip link set lo up")
    open_folders([Path(sys.base_prefix), Path(sys.prefix), TESTS.parent])


def open_folders(needed: Iterable[Path]) -> None:
    """Let every user read these folders, though they may lie in one that is root's alone.

    An empty folder is mounted over the closed one, in this mount namespace alone, and in that what is needed.
    """
    closed = {path: top for path in needed for top in reversed((path, *path.parents)) if not top.stat().st_mode & 1}
    script = []
    for number, path in enumerate(closed):
        script.append(f"mkdir {RUN}/open{number}; mount --bind '{path}' {RUN}/open{number}")
    script += [f"mount -t tmpfs -o mode=755 none '{top}'" for top in set(closed.values())]
    script += [f"mkdir -p '{path}'; mount --bind {RUN}/open{number} '{path}'" for number, path in enumerate(closed)]
    if script:
        shell("\n".join(script))


class Network:
    """A network, and the programs that run in it."""

    def __init__(self) -> None:
        self.programs: dict[str, subprocess.Popen[bytes]] = {}
        self.prunes_at = 0.0

    def up(self, topology: Topology) -> None:
        """Make the switch and the hosts. Multicast goes by en<N> of a host's first link, as a default route has it."""
        hosts = dict(topology.hosts)
        links = sorted({link for each in hosts.values() for link in each})
        if topology.router:
            hosts["r"] = tuple(links)
        shell("ip -batch - <<X\n" + "\n".join(f"netns add {name}" for name in ("sw", *hosts)) + "\nX")
        for name in hosts:
            self.run(name, QUIET)
        self.run("sw", f"{QUIET}\nip -batch - <<X\n" + "\n".join(wiring(topology, hosts, links)) + "\nX")
        self.prunes_at = time.monotonic() + PRUNES_AFTER if topology.querier else 0.0
        for name, ends in hosts.items():
            self.run(name, "\n".join(addressing(name, ends)))

    def wait_until_it_prunes(self) -> None:
        time.sleep(max(0.0, self.prunes_at - time.monotonic()))

    def run(self, host: str, script: str) -> str:
        """Run a script in a host, and return its output.

        The other hosts are namespaces by their names. $PYTHON is this Python; `helper MODULE ARGUMENTS` runs a module
        of this folder; $RUN is a folder for files, where NAME.pid is the pid of a program.
        """
        return shell(HELPER + script, within(host))

    def start(self, beside: Beside, *, through: Sequence[str] = (), as_user: Sequence[str] = ()) -> None:
        """Start a module of this folder; `started` waits for it.

        `through` is what it is run by, outside of the host's network; `as_user` the same, inside.
        """
        name, options = beside.name, shlex.split(beside.options)
        if beside.module in ("receive", "transmit"):
            count = RUN / f"{name}.count"
            count.write_bytes(bytes(8))
            count.chmod(0o666)
            options += ["--count", str(count)]
        module = [sys.executable, "-S", "-m", f"network_faults.{beside.module}"]
        command = [*through, *within(beside.host), *as_user, *module]
        with (RUN / f"{name}.out").open("wb") as out, (RUN / f"{name}.err").open("wb") as errors:
            # `ip netns exec` becomes the program, so the pid is the program's own.
            self.programs[name] = subprocess.Popen(
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                env=environment(),
                start_new_session=True,
            )
        (RUN / f"{name}.pid").write_text(f"{self.programs[name].pid}\n")

    def started(self, name: str) -> dict[str, object]:
        """Wait until a program is ready, and return what it says of itself."""
        program = self.programs[name]
        out = RUN / f"{name}.out"
        wait_for(lambda: b"\n" in out.read_bytes() or program.poll() is not None, 10)
        lines = out.read_text().splitlines()
        if not lines:
            raise NetworkError(f"{name} did not start: {(RUN / f'{name}.err').read_text()[-800:]}")
        said: dict[str, object] = json.loads(lines[0])
        return said

    def stop(self, name: str) -> None:
        """End a program."""
        program = self.programs.pop(name)
        program.kill()
        program.wait()

    def alive(self, name: str) -> bool:
        return name in self.programs and self.programs[name].poll() is None


def wiring(topology: Topology, hosts: Mapping[str, Sequence[int]], links: Sequence[int]) -> list[str]:
    """Lines for `ip -batch` in the switch."""
    options = (
        f"type bridge stp_state 0 forward_delay 0 mcast_snooping {int(topology.snooping)} mcast_igmp_version 3 "
        f"mcast_query_response_interval 100 mcast_startup_query_interval 100 {topology.bridge}"
    )
    lines = [f"link add br{n} address 02:00:00:00:{n:02x}:ff {options}" for n in links]
    lines += [f"link set br{n} up" for n in links]
    for host, ends in hosts.items():
        for n in ends:
            mac = f"02:00:00:00:{n:02x}:{NUMBERS[host]:02x}"
            lines.append(f"link add {host}-{n} type veth peer name en{n} address {mac} netns {host}")
            lines.append(f"link set {host}-{n} master br{n} up")
            if host == "r":
                lines.append(f"link set {host}-{n} type bridge_slave mcast_router 2")
    if topology.querier:  # With the interval that was set before.
        lines += [f"link set br{n} type bridge mcast_querier 1" for n in links]
    return lines


def addressing(host: str, links: Sequence[int]) -> list[str]:
    """Commands in a host."""
    lines = [f"ip addr add 198.18.{n}.{NUMBERS[host]}/24 broadcast + dev en{n}; ip link set en{n} up" for n in links]
    if host == "r":
        lines.append("sysctl -qw net.ipv4.ip_forward=1")
    elif links:
        lines.append(f"ip route add default via 198.18.{links[0]}.254")
    return lines or ["true"]


def filtered_group(name: str) -> list[str]:
    """Return what a command is run by to be in a control group whose BPF program drops all that comes in.

    The group is the machine's, since there is only one hierarchy. Whoever gave the name removes it
    (`remove_control_group`) when the processes have ended.
    """
    folder = control_groups() / name
    folder.mkdir()
    shell(f"{HELPER} helper ebpf cgroup {folder}")
    return ["sh", "-c", f'echo $$ >{folder}/cgroup.procs && exec "$@"', "sh"]


def remove_control_group(name: str) -> None:
    """Remove one that is empty; none is fine, too."""
    with contextlib.suppress(FileNotFoundError):
        (control_groups() / name).rmdir()


def control_groups() -> Path:
    """Return where cgroup2 is mounted."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"]
    if not found:
        raise NetworkError("cgroup2 is not mounted")
    return found[0]


def within(host: str) -> list[str]:
    return ["ip", "netns", "exec", host]


def environment() -> dict[str, str]:
    more = {"PYTHON": sys.executable, "PYTHONPATH": str(TESTS), "RUN": str(RUN), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **more}


def shell(script: str, within: Sequence[str] = ()) -> str:
    """Run a script; its first command that fails ends it.

    Raises:
        NetworkError: It failed.
    """
    command = [*within, "bash", "-euc", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment(), timeout=30)
    if done.returncode:
        raise NetworkError(f"failed ({done.returncode}): {script}\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Return whether it came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def read_count(name: str) -> int:
    """Return how many datagrams a program has received or sent."""
    with contextlib.suppress(FileNotFoundError):
        return int.from_bytes((RUN / f"{name}.count").read_bytes(), sys.byteorder)
    return 0
