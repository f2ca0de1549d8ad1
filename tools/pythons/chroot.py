"""Make a folder with more Pythons, for `nox -s pythons -- FOLDER`: a minimal Debian sid. As root.

    python tools/pythons/chroot.py FOLDER
    python tools/pythons/chroot.py FOLDER --free-threaded 3.13

Debian sid has the newest Pythons, and PyPy. A free-threaded one is compiled from Debian's source, on one core. Which
suite has the source of a version changes, so the suites are tried in turn. Needs debootstrap.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from entering import enter

HERE = Path(__file__).parent
SOURCE_SUITES = ("sid", "forky", "trixie")
PACKAGES = (
    "build-essential", "ca-certificates", "gcc", "iproute2", "libbz2-dev", "libc6-dev", "libffi-dev", "liblzma-dev",
    "libsqlite3-dev", "libssl-dev", "nftables", "pkg-config", "socat", "tcpdump", "util-linux", "xz-utils",
    "zlib1g-dev",
)  # fmt: skip
"""What compiling takes, and the tools that the tests run."""
PYTHONS = "apt-cache pkgnames | grep -xE '(python3[.][0-9]+|pypy3)-(venv|dev)'"
BUILD = """
set -e
mkdir -p /opt/source && cd /opt/source
apt-get source -qq --tar-only python{version}={package}
tar -xf python{version}_*.orig.tar.xz
cd Python-{version}.*
./configure -q --disable-gil --prefix=/opt/python{version}t --with-ensurepip=install --disable-test-modules
nice make -s && make -s install
"""


def main() -> None:
    """Make it, or add to it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--free-threaded", metavar="VERSION", action="append", default=[])
    options = parser.parse_args()
    folder: Path = options.folder.absolute()
    if not (folder / "usr/bin").is_dir():
        subprocess.run(["debootstrap", "--variant=minbase", "sid", folder], check=True)
    prepare(folder)
    missing = [version for version in options.free_threaded if not build(folder, version)]
    if missing:
        sys.exit(f"no source could be had and compiled of Python {', '.join(missing)}")


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


def build(folder: Path, version: str) -> bool:
    """Compile a free-threaded Python from the first source of this version that can be downloaded; tell whether."""
    listed = subprocess.run(
        enter(folder, ["apt-cache", "showsrc", "--only-source", f"python{version}"]),
        capture_output=True,
        text=True,
        check=True,
    )
    packages = [line.split()[1] for line in listed.stdout.splitlines() if line.startswith("Version:")]
    scripts = (BUILD.format(version=version, package=package) for package in packages)
    return any(subprocess.run(enter(folder, ["sh", "-c", each]), check=False).returncode == 0 for each in scripts)


if __name__ == "__main__":
    main()
