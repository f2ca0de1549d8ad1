"""The scenes whose transcripts are in the manual.

A scene has hosts, and a command that is shown, as if somebody had typed it. What goes on beside it is not shown.
"""

from __future__ import annotations

import re
import shlex
from typing import Final, NamedTuple

from support import labels, peers

MARK: Final = re.compile(r"<!-- transcript: ([\w-]+) -->\n(?:\n?```text\n.*?\n```\n)?", re.DOTALL)
"""How a page names a scene, and the block of text that comes after the name."""


class Command(NamedTuple):
    """A command on a host; `None` is this machine. `after` is the seconds to wait before it starts; `shown` is what
    a person would have typed, if that is something else."""

    host: str | None
    text: str
    after: float = 0.0
    shown: str | None = None


class Scene(NamedTuple):
    """What is run before, what goes on beside, and what is shown."""

    shown: tuple[Command, ...]
    beside: tuple[Command, ...] = ()
    before: tuple[Command, ...] = ()
    hosts: tuple[str, ...] | dict[str, tuple[int, ...]] = ("a", "b")
    links: int = 1
    router: bool = False


LISTEN: Final = "trio-ipv4 listen 239.1.2.3:5000 --interface en0"
SEND: Final = "trio-ipv4 send 239.1.2.3:5000 --interface en0"
DOCTOR: Final = "trio-ipv4 doctor 239.1.2.3:5000 --interface en0"
HEARER: Final = Command("b", LISTEN)
MEMBER: Final = "socat -u UDP4-RECV:5001,ip-add-membership=239.1.1.1:en0 -"
LAB_UP: Final = "timeout -s INT 6 trio-ipv4 lab up >/dev/null 2>&1"
IN_A_CONTAINER: Final = "trio-ipv4 listen 239.1.2.3:5000 --interface lo"
LOSSY: Final = (
    "nft 'add table t; add chain t c { type filter hook input priority 0; }; "
    "add rule t c udp dport 5000 numgen inc mod 50 0 drop'"
)
DROPPING: Final = (
    "nft 'add table inet filter; "
    "add chain inet filter input { type filter hook input priority 0; policy drop; }; "
    "add rule inet filter input iif lo accept; "
    "add rule inet filter input ct state established,related accept; "
    "add rule inet filter input ip protocol igmp accept'"
)
TOLD: Final = "sh -c 'echo the \\$EVENT member of \\$GROUP: \\$HOST'"
QUERIER: Final = "ip link set br0 type bridge mcast_querier"
GROUPS_BY_EN0: Final = Command("b", "ip route add 224.0.0.0/4 dev en0")
POWERLESS: Final = "setpriv --inh-caps=-all --bounding-set=-all"
ANYBODY_MAY_PING: Final = Command("a", "sysctl -q -w net.ipv4.ping_group_range='0 2147483647'")
HOSTS_OF_PATH: Final = ("a", "r1", "r2", "r3", "r4", "r5", "b")
PATH: Final = {name: tuple({max(each - 1, 0), min(each, 5)}) for each, name in enumerate(HOSTS_OF_PATH)}
"""Five routers between "a" and "b". Link i is between host i and the next one."""
ROUTES_OF_PATH: Final = (
    ANYBODY_MAY_PING,
    Command("a", "ip route add default via 198.18.0.2"),
    *(
        Command(
            f"r{each}",
            f"sysctl -q -w net.ipv4.ip_forward=1; ip route add 198.18.0.0/16 via 198.18.{each}.{each + 2}"
            + (f"; ip route add 198.18.0.0/24 via 198.18.{each - 1}.{each}" if each > 1 else ""),
        )
        for each in range(1, 6)
    ),
    Command("b", "ip route add default via 198.18.5.6"),
)
PINGS: Final = "python ping.py 198.18.5.7 203.0.113.1 --count 2"
TRACE: Final = "python traceroute.py 198.18.5.7"
TRACE_LABELS: Final = f"python traceroute.py {labels.DESTINATION}"
TRACE_PROHIBITED: Final = "python traceroute.py 198.51.100.7 --icmp --probes 2"
RESPONDER: Final = (
    "python ssdp_responder.py --interface en0 --type urn:schemas-upnp-org:device:InternetGatewayDevice:1"
    " --uuid 01234567-89ab-cdef-0123-456789abcdef"
)
SCENES: Final = {
    "demo": Scene((Command("a", "trio-ipv4 demo"),)),
    "interfaces": Scene((Command("a", "trio-ipv4 interfaces"),), links=2),
    "interfaces-watch": Scene(
        (Command("a", "trio-ipv4 interfaces --watch --for 3s"),),
        (Command("a", "ip link set en1 down", 2),),
        links=2,
    ),
    "send-probes": Scene(
        (
            Command("a", f"{SEND} --rate 100/s --for 3s"),
            Command("a", "trio-ipv4 send 239.1.2.3:5000 hello --interface en0 --ttl 5"),
            Command("a", "trio-ipv4 send 239.1.2.3:5000 hello; echo $?"),
        )
    ),
    "ping": Scene((Command("a", "trio-ipv4 ping 198.18.0.2 --count 3", 3),), (Command("b", "trio-ipv4 ping --serve"),)),
    "ping-group": Scene(
        (Command("a", "trio-ipv4 ping 239.7.7.7 --count 2 --wait 1s", 3),),
        tuple(Command(host, "trio-ipv4 ping --serve 239.7.7.7") for host in ("b", "c")),
        hosts=("a", "b", "c"),
    ),
    "groups": Scene(
        (
            Command("a", "trio-ipv4 groups", 2),
            Command("a", "trio-ipv4 groups 239.9.9.9; echo $?"),
        ),
        (Command("a", MEMBER), Command("a", f"{LISTEN} --source 198.18.0.2")),
    ),
    "lab-on": Scene(
        (Command(None, f'trio-ipv4 lab up --on b="{LISTEN} --for 3s" --on a="sleep 1; {SEND} --count 2"'),)
    ),
    "lab": Scene(
        (
            Command(None, "timeout -s INT 3 trio-ipv4 lab up", shown="trio-ipv4 lab up"),
            Command(
                None,
                f"{LAB_UP} & sleep 2; trio-ipv4 lab enter a trio-ipv4 interfaces",
                shown="trio-ipv4 lab enter a trio-ipv4 interfaces",
            ),
        )
    ),
    "listen-flows": Scene(
        (Command("a", "trio-ipv4 listen 239.1.2.3:5000 --for 5s"),),
        (Command("b", f"{SEND} --rate 200/s --for 2s", 1.5),),
    ),
    "watch-joins": Scene((Command("a", "trio-ipv4 watch --for 6s"),), (Command("a", f"{LISTEN} --for 1s", 1.5),)),
    "watch-exec": Scene(
        (Command("a", f'trio-ipv4 watch --for 5s --group 239.1.2.3 --exec "{TOLD}"'),),
        (Command("a", f"{LISTEN} --for 1s", 1.5),),
    ),
    "doctor-received": Scene((Command("b", f"{DOCTOR}; echo $?", 3),), (Command("a", f"{SEND} --rate 20/s"), HEARER)),
    "doctor-refused": Scene(
        (Command("b", f"{DOCTOR}; echo $?", 3),),
        (Command("a", f"{SEND} --rate 20/s"), HEARER),
        before=(
            Command("b", "sysctl -q -w net.ipv4.conf.en0.rp_filter=1"),
            Command("b", "ip route add 198.18.0.1/32 dev en1"),
        ),
        links=2,
    ),
    "doctor-cannot-tell": Scene((Command("b", f"{DOCTOR}; echo $?", 3),), (HEARER,)),
    "doctor-sender": Scene(
        (Command("a", f"{DOCTOR} --sender; echo $?", 3),),
        (Command("a", "trio-ipv4 send 239.1.2.3:5000 --rate 20/s"),),
        before=(Command("a", "ip route add 239.0.0.0/8 dev en1"),),
        links=2,
    ),
    # How-to pages for people in trouble.
    "rp-filter-before-a-datagram": Scene(
        (Command("b", f"{DOCTOR} --source 198.18.0.1; echo $?", 3),),
        (HEARER,),
        before=(
            Command("b", "sysctl -q -w net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.en0.rp_filter=0"),
            Command("b", "ip route add 198.18.0.1/32 dev en1"),
        ),
        links=2,
    ),
    "rp-filter-settings": Scene(
        (Command("b", "sysctl net.ipv4.conf.all.rp_filter net.ipv4.conf.en0.rp_filter"),),
        before=(Command("b", "sysctl -q -w net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.en0.rp_filter=0"),),
    ),
    "firewall-drops-the-group": Scene(
        (Command("b", f"{DOCTOR}; echo $?", 3),),
        (Command("a", f"{SEND} --rate 20/s"), HEARER),
        before=(Command("b", DROPPING),),
    ),
    "port-of-the-container": Scene(
        (Command("b", f"{DOCTOR}; echo $?", 3),),
        (Command("a", f"{SEND} --rate 20/s"), Command("b", f"unshare --net {IN_A_CONTAINER}")),
    ),
    "port-is-taken": Scene(
        (Command("b", "trio-ipv4 doctor 239.1.2.3:5000 --interface en0 --for 1s; echo $?", 2),),
        (Command("a", f"{SEND} --rate 20/s"), Command("b", "socat -u UDP4-RECV:5000 -")),
    ),
    # The how-to: five questions.
    "who-sends": Scene(
        (Command("b", "trio-ipv4 listen 239.1.2.3:5000 --for 3s"),),
        (Command("a", f"{SEND} --rate 50/s", 1), Command("c", f"{SEND} --rate 5/s --size 400", 1)),
        hosts=("a", "b", "c"),
    ),
    "how-many-hops": Scene(
        (Command("a", "trio-ipv4 ping 198.18.1.2 --count 3", 3),),
        (Command("b", "trio-ipv4 ping --serve"),),
        hosts={"a": (0,), "b": (1,)},
        router=True,
    ),
    "is-anything-lost": Scene(
        (Command("b", f"{LISTEN} --for 5s"),),
        (Command("a", f"{SEND} --rate 200/s --for 3s", 1.5),),
        # Every fiftieth datagram is lost on the way.
        before=(Command("b", LOSSY),),
    ),
    "who-has-joined-here": Scene((Command("a", "trio-ipv4 groups 239.1.1.1", 2),), (Command("a", MEMBER),)),
    "who-has-joined-there": Scene(
        (Command("router", "trio-ipv4 watch --for 6s --group 239.1.2.3"),),
        (Command("a", f"{LISTEN} --for 8s", 1.5), Command("b", f"{LISTEN} --source 198.18.0.1 --for 8s", 2.5)),
        router=True,
    ),
    "is-there-a-querier": Scene(
        (Command("a", "trio-ipv4 watch --until-querier --for 130s; echo $?"),),
        (Command("switch", f"sh -c '{QUERIER} 0; {QUERIER} 1'", 2),),
    ),
    # The example programs: the tutorial.
    "hear-in-the-kernel": Scene((Command("a", "ip maddress show dev lo", 2),), (Command("a", "python hear.py"),)),
    "hear-twice": Scene(
        (Command("a", "python hear.py 2>&1 | tail -n 1 | fold -s", 2),), (Command("a", "python hear.py"),)
    ),
    "hear": Scene(
        (Command("a", "timeout 4 python hear.py", shown="python hear.py"),), (Command("a", "python talk.py", 1.5),)
    ),
    "several": Scene(
        (Command("a", "timeout 4 python several.py", shown="python several.py"),),
        tuple(Command("a", f"python talk.py lo 239.1.2.{last}", 1.5) for last in (4, 5)),
    ),
    # Errors, and what uses them.
    "ask-many": Scene(
        (Command("a", "python ask_many.py 198.18.0.2:5000 198.18.0.3:5000 198.18.7.7:5000", 1),),
        (Command("c", "socat UDP4-RECVFROM:5000,fork SYSTEM:'printf yes'"),),
        before=(Command("router", "ip route add prohibit 198.18.7.7/32"),),
        hosts=("a", "b", "c"),
        router=True,
    ),
    "example-ping": Scene(
        (Command("a", f"{POWERLESS} {PINGS}", shown=PINGS),),
        before=ROUTES_OF_PATH,
        hosts=PATH,
    ),
    "example-traceroute": Scene(
        (Command("a", f"{POWERLESS} {TRACE}", shown=TRACE),),
        before=ROUTES_OF_PATH,
        hosts=PATH,
    ),
    "example-traceroute-labels": Scene(
        (Command("a", f"{POWERLESS} {TRACE_LABELS}", 2, shown=TRACE_LABELS),),
        (Command("b", f"python {shlex.quote(labels.__file__)}"),),
        before=(Command("a", "ip route add default via 198.18.0.2"),),
    ),
    "example-traceroute-prohibited": Scene(
        (Command("a", f"{POWERLESS} {TRACE_PROHIBITED}", shown=TRACE_PROHIBITED),),
        before=(
            *ROUTES_OF_PATH,
            Command("r1", "ip route add 198.51.100.0/24 via 198.18.1.3"),
            Command("r2", "ip route add prohibit 198.51.100.0/24"),
        ),
        hosts=PATH,
    ),
    # Six trades.
    "market-data": Scene(
        (Command("a", "python market_data.py en0 en1"),),
        (Command("b", "python market_data_feed.py en0 en1 --count 6 --lose-a 2 --lose-a 5 --lose-b 5", 2),),
        links=2,
    ),
    "rtp-listener": Scene(
        (Command("a", "python rtp_listener.py en0 --interval 2 --seconds 10"),),
        (Command("b", shlex.join(peers.ffmpeg(5)), 2),),
        before=(GROUPS_BY_EN0,),
    ),
    "sacn-receiver": Scene(
        (Command("a", "python sacn_receiver.py en0 --seconds 10"),),
        (
            Command("b", shlex.join(peers.sacn("Backup", 50, 1, 0, 3)), 2),
            Command("b", f"timeout 2 {shlex.join(peers.sacn('Desk', 100, 255, 128))}", 4),
        ),
        before=(GROUPS_BY_EN0,),
    ),
    "ptp-delay": Scene((Command("a", "python ptp_delay.py en0", 3),), (Command("b", shlex.join(peers.ptp4l())),)),
    "ssdp-responder": Scene(
        (Command("a", f"timeout -s INT 11 {RESPONDER}", shown=RESPONDER),),
        (Command("b", shlex.join(peers.upnpc()), 3),),
    ),
    "vrrp-listener": Scene(
        (Command("a", "python vrrp_listener.py en0 --seconds 20"),),
        (
            Command("b", f"timeout 8 {shlex.join(peers.keepalived(150, interval=1))}"),
            Command("c", shlex.join(peers.keepalived(100, interval=1))),
            Command("switch", "ip link set c-0 down", 12),
        ),
        hosts=("a", "b", "c"),
    ),
}
