"""Make a folder with more Pythons, for `nox -s pythons -- FOLDER`: a minimal Debian sid. As root.

    python tools/pythons/chroot.py FOLDER
    python tools/pythons/chroot.py FOLDER --free-threaded 3.13 --musl 3.13

Debian sid has the newest Pythons, and PyPy. A free-threaded one, and one that is linked to musl, are compiled from
Debian's sources, on one core (build.sh). Several suites are asked for them, since each has other versions. Needs
debootstrap.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from entering import enter

KINDS = ("free-threaded", "musl")
HERE = Path(__file__).parent
SOURCE_SUITES = ("sid", "forky", "trixie")
PACKAGES = (
    "autoconf", "automake", "build-essential", "ca-certificates", "gcc", "libbz2-dev", "libc6-dev", "libffi-dev",
    "liblzma-dev", "libltdl-dev", "libsqlite3-dev", "libssl-dev", "libtool", "musl-tools", "pkg-config", "xz-utils",
    "zlib1g-dev",
    "avahi-daemon", "avahi-utils", "dbus", "ffmpeg", "iperf", "iproute2", "nftables", "socat", "tcpdump", "tshark",
    "util-linux",
)  # fmt: skip
"""What compiling takes, and the tools that the tests run."""
PYTHONS = "apt-cache pkgnames | grep -xE '(python3[.][0-9]+|pypy3)-(venv|dev)'"


def main() -> None:
    """Make it, or add to it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", metavar="VERSION", action="append", default=[])
    options = parser.parse_args()
    folder: Path = options.folder.absolute()
    if not (folder / "usr/bin").is_dir():
        subprocess.run(["debootstrap", "--variant=minbase", "sid", folder], check=True)
    prepare(folder)
    script = (HERE / "build.sh").read_text()
    for kind in KINDS:
        for version in getattr(options, kind.replace("-", "_")):
            subprocess.run(enter(folder, ["sh", "-c", script, "sh", kind, version]), check=True)


def prepare(folder: Path) -> None:
    """Install the Pythons, and what the tests need."""
    # Exit status 101 forbids the packages to start their daemons.
    policy = folder / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    listed = folder / "etc/apt/sources.list"
    binaries = listed.read_text().splitlines()[0]  # "deb", the mirror that debootstrap took, "sid main".
    sources = [binaries.replace("deb ", "deb-src ").replace(" sid ", f" {suite} ") for suite in SOURCE_SUITES]
    listed.write_text("".join(f"{line}\n" for line in (binaries, *sources)))
    for settings in Path("/etc/apt/apt.conf.d").iterdir():  # How this machine reaches a mirror.
        (folder / "etc/apt/apt.conf.d" / settings.name).write_bytes(settings.read_bytes())
    install = f"apt-get install -qq --no-install-recommends {' '.join(PACKAGES)} $({PYTHONS})"
    script = f"export DEBIAN_FRONTEND=noninteractive; apt-get update -qq && {install}"
    # Its package of certificates puts a new file in the place of the shared one. While that is mounted, it can't.
    subprocess.run(enter(folder, ["sh", "-c", script], shared=["/etc/resolv.conf"]), check=True)


if __name__ == "__main__":
    main()
