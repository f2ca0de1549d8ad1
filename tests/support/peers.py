"""Programs of others with which the examples talk, as commands. The transcripts in the manual are made with them, too.

A program that needs files of its own makes them where TMPDIR says.
"""

from __future__ import annotations

import sys
from typing import Final

KEEPALIVED: Final = """\
files=$(mktemp -d)
cat >"$files/conf" <<END
global_defs {
  vrrp_version 3
  router_id example
}
vrrp_instance example {
  state BACKUP
  interface en0
  virtual_router_id 51
  priority $1
  advert_int $2
  virtual_ipaddress {
    198.18.0.100/24
    198.18.0.101/24
  }
}
END
exec 2>&1
exec keepalived --dont-fork --log-console --vrrp --pid="$files/pid" --vrrp_pid="$files/vrrp" --use-file="$files/conf"
"""
PTP4L: Final = (
    # It could not set the machine's clock if it wanted to. (And it does not: it is a master, and runs free.)
    "exec setpriv --bounding-set=-sys_time ptp4l -i en0 -4 -E -S -m --masterOnly=1 --free_running=1"
    ' --logSyncInterval=-3 --logAnnounceInterval=-3 --announceReceiptTimeout=2 --uds_address="$(mktemp -u)"'
)
SACN: Final = """\
import sys, time
from sacn import sACNsender

name, stays, priority, *levels = sys.argv[1:]
sender = sACNsender(source_name=name, bind_address="198.18.0.2", bind_port=0, fps=30, universeDiscovery=False)
sender.start()
for universe in (1, 258):
    sender.activate_output(universe)
    sender[universe].multicast = True
    sender[universe].priority = int(priority)
    sender[universe].dmx_data = tuple(map(int, levels))
time.sleep(60 if stays == "stays" else 0.2)  # It sends 30 times a second.
sender[1].dmx_data = (9,)
time.sleep(0.2)
sender.deactivate_output(1)
sender.stop()
"""


def keepalived(priority: int, *, interval: float) -> list[str]:
    """A router that wants the addresses of router 51, and advertises every so many seconds."""
    return ["sh", "-c", KEEPALIVED, "sh", str(priority), str(interval)]


def ptp4l() -> list[str]:
    """A master clock, which does not set this machine's."""
    return ["sh", "-c", PTP4L]


def ffmpeg(seconds: int) -> list[str]:
    """Announces a tone of so many seconds by SAP, and sends it by RTP. It needs a route to groups."""
    tone = ["-re", "-f", "lavfi", "-i", f"sine=frequency=440:duration={seconds}"]
    coded = ["-ac", "1", "-c:a", "pcm_mulaw", "-ar", "8000", "-metadata", "title=A tone"]
    url = "sap://239.1.2.3:5004?announce_addr=239.255.255.255&ttl=1"
    return ["ffmpeg", "-nostdin", "-loglevel", "error", *tone, *coded, "-f", "sap", url]


def sacn(name: str, priority: int, *levels: int, stays: bool = True) -> list[str]:
    """Sends universes 1 and 258 from 198.18.0.2. It needs a route to groups. If it doesn't stay, it soon stops 1."""
    return [sys.executable, "-c", SACN, name, "stays" if stays else "stops", str(priority), *map(str, levels)]


def upnpc() -> list[str]:
    """Searches for an internet gateway."""
    return ["upnpc", "-m", "en0", "-l"]
