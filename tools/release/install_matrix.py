"""Install the distributions as users do who lack something: `python tools/release/install_matrix.py DIST PYTHON ...`.

DIST has the source distribution, a wheel for this platform, and the pure one. The first PYTHON installs all in every
way, the others the wheel. Each row is a new virtual environment, and ends with try_installed.py in a private network.
What trio-ipv4 needs is downloaded once, into a wheelhouse, by pip's settings.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TRY = Path(__file__).with_name("try_installed.py")
COMPILER = re.compile(r"gcc|g\+\+|c\+\+|clang|^cc$|^c[89]9")
ROOT = os.geteuid() == 0

# Root becomes a user with another number, whom root's files belong to as a user's own do, and who has no capability.
PLAIN_USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if ROOT else []
MOUNTS = ["unshare", "--mount"] if ROOT else ["unshare", "--mount", "--map-root-user"]
OFFLINE = ["unshare", "--net"] if ROOT else ["unshare", "--net", "--map-root-user"]


class Row(NamedTuple):
    """A way to install, and what comes of it."""

    name: str
    python: str
    what: Path
    expected: str
    before: Sequence[str] = ()
    """The command that the installer runs in, such as one that takes the network away."""
    user: Sequence[str] = ()
    """The command that makes another user of the installer, and of who tries it."""
    path: str | None = None
    uv: bool = False
    folder: str = "venv"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path)
    parser.add_argument("python", nargs="+")
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        wheelhouse = fill_wheelhouse(arguments.python, arguments.dist.absolute(), Path(scratch))
        for row in rows(arguments.dist.absolute(), arguments.python, Path(scratch)):
            started = time.monotonic()
            where = Path(scratch, row.folder)
            try:
                said = install_and_try(row, where, wheelhouse)
            except subprocess.CalledProcessError as error:
                failed += 1
                said = f"FAILED: {' '.join(map(str, error.cmd))}\n{error.stdout}"
            print(f"{row.name:44} {time.monotonic() - started:5.1f} s  {said.strip()}", flush=True)
            shutil.rmtree(where, ignore_errors=True)
    print(f"{failed} failed" if failed else "every installation works")
    return bool(failed)


def rows(dist: Path, pythons: list[str], scratch: Path) -> Iterator[Row]:
    first = pythons[0]
    (source,) = dist.glob("*.tar.gz")
    (pure,) = dist.glob("*-none-any.whl")
    (wheel,) = dist.glob("*-abi3-linux_*.whl")
    no_compiler = path_without_compilers(scratch)
    yield Row("source, compiler", first, source, "compiled")
    yield Row("source, no compiler", first, source, "pure", path=no_compiler)
    yield Row("source, compiler, no Python.h", first, source, "pure", before=without_headers(first))
    yield Row("source, not root", first, source, "compiled", user=PLAIN_USER)
    yield Row("wheel, not root", first, wheel, "compiled", user=PLAIN_USER)
    yield Row("source, offline", first, source, "compiled", before=OFFLINE)
    yield Row("wheel, offline", first, wheel, "compiled", before=OFFLINE)
    spaces = scratch / "a path with spaces"
    spaces.mkdir()
    for each in (source, wheel):
        shutil.copy(each, spaces)
    folder = f"{spaces.name}/a venv"
    yield Row("source, path with spaces", first, spaces / source.name, "compiled", folder=folder)
    yield Row("wheel, path with spaces", first, spaces / wheel.name, "compiled", folder=folder)
    yield Row("source, uv", first, source, "compiled", uv=True)
    yield Row("wheel, uv", first, wheel, "compiled", uv=True)
    yield Row("pure wheel, no compiler", first, pure, "pure", path=no_compiler)
    for python in pythons:
        yield Row(f"wheel, {Path(python).name}", python, wheel, "compiled")


def install_and_try(row: Row, where: Path, wheelhouse: Path) -> str:
    """Install the distribution and the command line into a new environment; return what try_installed.py says."""
    python = str(where / "bin" / "python")
    env = {**os.environ} if row.path is None else {**os.environ, "PATH": row.path}
    env.pop("TRIO_IPV4_PURE", None)
    wanted = f"trio-ipv4[cli] @ {row.what.as_uri()}"
    if row.uv:
        run("uv", "venv", "--quiet", "--python", row.python, str(where), env=env)
        installer = ["uv", "pip", "install", "--quiet", "--python", python]
    else:
        run(row.python, "-m", "venv", "--without-pip", str(where), env=env)
        pip = str(downloader(row.python, wheelhouse) / "bin" / "python")
        installer = [pip, "-m", "pip", "--python", python, "install", "--quiet", "--no-cache-dir", "--no-compile"]
    run(*row.user, *row.before, *installer, "--no-index", "--find-links", str(wheelhouse), wanted, env=env)
    private = [python, "-m", "trio_ipv4.testing"]
    return run(*row.user, *private, python, str(TRY), row.expected, env=os.environ).splitlines()[-1]


def path_without_compilers(scratch: Path) -> str:
    """Make a folder with every command of this PATH but compilers."""
    folder = scratch / "bin"
    folder.mkdir()
    for each in os.get_exec_path():
        for command in sorted(Path(each).glob("*")):
            if not COMPILER.search(command.name) and not (folder / command.name).is_symlink():
                (folder / command.name).symlink_to(command)
    return str(folder)


def without_headers(python: str) -> list[str]:
    """Return a command that runs another one where the folder of this Python's headers is empty."""
    include = run(python, "-c", "import sysconfig; print(sysconfig.get_path('include'))", env=os.environ).strip()
    return [*MOUNTS, "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', include]


def fill_wheelhouse(pythons: list[str], dist: Path, scratch: Path) -> Path:
    """Download all that the command line needs under each Python, and what a build from source needs."""
    wheelhouse = scratch / "wheelhouse"
    (source,) = dist.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        project = archive.extractfile(f"{source.name.removesuffix('.tar.gz')}/pyproject.toml")
        assert project is not None
        build_requires = tomllib.loads(project.read().decode())["build-system"]["requires"]
    for python in pythons:
        environment = downloader(python, wheelhouse)
        run(python, "-m", "venv", str(environment), env=os.environ)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(wheelhouse)]
        run(*pip, f"trio-ipv4[cli] @ {next(dist.glob('*-none-any.whl')).as_uri()}", *build_requires, env=os.environ)
    for own in wheelhouse.glob("trio_ipv4-*"):
        own.unlink()  # Each row installs it from `dist`.
    return wheelhouse


def downloader(python: str, wheelhouse: Path) -> Path:
    """Return the environment whose pip fills the wheelhouse for this Python, and installs from it."""
    return wheelhouse.with_name(f"pip of {Path(python).name}")


def run(*command: str, env: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=env, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
