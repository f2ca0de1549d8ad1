"""A fault, built: what the table says, in a network of its own. And its state by the receiver's own count."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from network_faults.fault import NOT_RUN, Beside
from network_faults.network import Network, NetworkError, filtered_group, read_count, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from network_faults.fault import Fault, Steps

ENOUGH: Final = 4
"""Datagrams that show that reception works."""
LOOK: Final = 1.0
"""Seconds in which nothing must arrive, to show that it does not."""
NOISE: Final = "noise"
NOBODY: Final = (
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
)
"""What a command is run by to be another user's, without any privilege."""


class FaultLab:
    """One variant of a fault.

    Its receiver is root's, or nobody's: then a doctor of the same user may ask it.
    """

    def __init__(
        self, fault: Fault, *, faulty: bool, noise: bool = False, control_group: str = "", owner: str = "root"
    ) -> None:
        self.fault = fault
        self.owner = owner
        self.faulty = faulty
        self.control_group = control_group
        self.noise = noise
        self.network = Network()
        self.said: dict[str, dict[str, object]] = {}

    @property
    def where(self) -> str:
        """The namespace in which doctor is asked."""
        return self.fault.where

    def build(self) -> None:
        """Make it; when this returns, the fault shows."""
        fault = self.fault
        self.network.up(fault.topology)
        self.run(fault.prepare)
        if self.faulty:
            self.run(fault.before)
        self.start_programs()
        self.network.wait_until_it_prunes()
        if self.faulty:
            self.run(fault.after)
            self.run(fault.again)
        time.sleep(fault.settle)

    def again(self) -> None:
        """Have the fault fresh for another look."""
        if self.faulty:
            self.run(self.fault.again)
            time.sleep(self.fault.between)

    def run(self, steps: Steps) -> None:
        for host, script in steps:
            self.network.run(host, script)

    def start_programs(self) -> None:
        fault = self.fault
        beside = fault.beside + (fault.beside_faulty if self.faulty else fault.beside_healthy)
        self.start([*self.noisy(), *beside])
        self.start_receiver(right=not self.faulty)
        self.start_sender(right=not self.faulty)

    def noisy(self) -> list[Beside]:
        """Other flows on the link between sender and receiver."""
        hosts = self.fault.topology.hosts
        common = sorted(set(hosts.get("a", ())) & set(hosts.get("b", ())))
        if not self.noise or not common:
            return []
        name = f"en{common[0]}"
        receiver = Beside("noise_receive", "b", "receive", f"--group 239.8.8.8 --port 5999 --iface {name}")
        return [receiver, Beside(NOISE, "a", "noise", name)]

    def start(self, programs: list[Beside], **how: Sequence[str]) -> None:
        for each in programs:
            self.network.start(each, **how)
        for each in programs:
            self.said[each.name] = self.network.started(each.name)

    def start_receiver(self, *, right: bool) -> None:
        fault = self.fault
        wrong_options = fault.receive if fault.faulty_receive is None else fault.faulty_receive
        host = fault.receive_on if right else fault.faulty_receive_on or fault.receive_on
        options = fault.receive if right else wrong_options
        if options != NOT_RUN:
            through = filtered_group(self.control_group) if fault.in_filtered_group and not right else ()
            as_user = NOBODY if self.owner == "nobody" else ()
            self.start([Beside("receive", host, "receive", options)], through=through, as_user=as_user)

    def start_sender(self, *, right: bool) -> None:
        fault = self.fault
        wrong_options = fault.transmit if fault.faulty_transmit is None else fault.faulty_transmit
        host = fault.transmit_on if right else fault.faulty_transmit_on or fault.transmit_on
        options = fault.transmit if right else wrong_options
        if options != NOT_RUN:
            self.start([Beside("transmit", host, "transmit", options)])

    def arguments(self, *, pid: bool) -> list[str]:
        """What doctor is told."""
        fault = self.fault
        found = [fault.target]
        if fault.interface:
            found += ["--interface", fault.interface]
        if fault.source:
            found += ["--source", fault.source]
        if fault.role != "receiver":
            found.append(f"--{fault.role}")
        if fault.receiver_address:
            found += ["--receiver", fault.receiver_address]
        if fault.probe:
            found.append("--probe")
        if pid and self.has_pid:
            found += ["--pid", str(self.network.programs[str(fault.pid)].pid)]
        return found

    @property
    def has_pid(self) -> bool:
        """There is a program whose pid can be told."""
        return self.fault.pid is not None and self.network.alive(self.fault.pid)

    # By the receiver's own count

    def check(self) -> None:
        """Say whether the lab is what it claims to be.

        Raises:
            NetworkError: It is not.
        """
        if not self.faulty:
            self.check_received("all")
            return
        self.check_programs()
        self.check_received(self.fault.hears)
        self.cure()
        self.check_received("all")

    def check_programs(self) -> None:
        """Each program that should run does, and refused what it should."""
        for name, program in self.network.programs.items():
            if program.poll():
                raise NetworkError(f"{name} has failed")
        failed = self.said.get("receive", {}).get("fail")
        if bool(failed) != self.fault.fails:
            raise NetworkError(f"the receiver says: {failed}")

    def check_received(self, hears: str) -> None:
        if hears == "all":
            before = read_count("receive")
            wait_for(lambda: read_count("receive") >= before + ENOUGH, 6 * LOOK)
        received, sent = self.during_a_look()
        right = {
            "nothing": received == 0,
            "less": received < 0.8 * sent,
            "more": received > 1.3 * sent,
            "all": received and abs(received - sent) <= max(2, 0.15 * sent),
        }[hears]
        if not right:
            raise NetworkError(f"the receiver got {received} of {sent}, and should have got {hears}")
        if hears == "nothing" and self.fault.sends is not (sent > 0):
            raise NetworkError(f"the sender sent {sent}")

    def during_a_look(self) -> tuple[int, int]:
        """Return how many datagrams the receiver got, and the sender sent, in a while."""
        before = read_count("receive"), read_count("transmit")
        time.sleep(LOOK)
        return read_count("receive") - before[0], read_count("transmit") - before[1]

    def cure(self) -> None:
        """Mend it, as the row says, and start anew the programs that were wrong."""
        fault = self.fault
        self.run(fault.cure)
        for each in fault.beside_faulty:
            self.network.stop(each.name)
        self.start(list(fault.beside_healthy))
        if fault.faulty_receive is not None or fault.faulty_receive_on or fault.in_filtered_group or fault.restart:
            self.stop_if_running("receive")
            self.start_receiver(right=True)
        if fault.faulty_transmit is not None or fault.faulty_transmit_on:
            self.stop_if_running("transmit")
            self.start_sender(right=True)

    def stop_if_running(self, name: str) -> None:
        if name in self.network.programs:
            self.network.stop(name)
