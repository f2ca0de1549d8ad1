"""What CI runs: `nox` for all of it, `nox -s lint` for one session, `nox -s tests-3.12 -- tests/values` for a part."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = "CI" in os.environ

HERE = Path(__file__).parent
RESULTS = HERE / ".nox" / "results"
HTML = HERE / "docs" / "_build" / "html"
PROJECT = nox.project.load_toml("pyproject.toml")
CLASSIFIED = nox.project.python_versions(PROJECT)
REQUIRED = ("3.11", "3.12", "3.13")
"""In CI these have to be there. Of the other Pythons that the package is for, those are taken that there are."""

EPOCH = {"SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", "1700000000")}
"""The time that files in distributions have, so that building them again gives the same octets."""
PURE = {"TRIO_IPV4_PURE": "1"}
WHEELS = {
    "manylinux_2_17_x86_64": "x86_64-linux-gnu.2.17",
    "manylinux_2_17_aarch64": "aarch64-linux-gnu.2.17",
    "musllinux_1_2_x86_64": "x86_64-linux-musl",
    "musllinux_1_2_aarch64": "aarch64-linux-musl",
}
"""The platforms of the compiled wheels, and what zig calls them."""

# pyenv's shims find only the versions that are set as global; the others, behind them on the path, are as good.
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
os.environ["PATH"] = os.pathsep.join(
    [os.environ["PATH"], *(str(path) for version in CLASSIFIED for path in PYENV.glob(f"{version}.*/bin"))]
)
PYTHONS = [version for version in CLASSIFIED if version in REQUIRED or shutil.which(f"python{version}")]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests; under the first Python, all of them, and measure what they cover.

    Other sessions leave out the tests that a second Python need not run (tests/conftest.py), unless there are arguments
    for pytest: `nox -s tests-3.13 -- tests` runs all of them.
    """
    install(session, "test", "-e", ".[cli]")
    if session.python != PYTHONS[0]:
        run_tests(session, "python", "-m", "pytest", second=True)
        return
    # An absolute path, so that subprocesses which work elsewhere write there too.
    env = {"COVERAGE_FILE": str(HERE / ".coverage")}
    session.run("coverage", "erase", env=env)
    run_tests(session, "coverage", "run", "-m", "pytest", env=env)
    if not session.posargs:
        session.notify("coverage")


@nox.session
def coverage(session: nox.Session) -> None:
    """Combine what the tests covered in all their processes, and report."""
    install(session, "coverage")
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session(python=PYTHONS[0])
def tests_oldest(session: nox.Session) -> None:
    """Run the tests with the lowest versions of the dependencies that we declare."""
    declared = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["cli"]]
    install(session, "test", "-e", ".[cli]", *(requirement.replace(">=", "==") for requirement in declared))
    run_tests(session, "python", "-m", "pytest", second=True)


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types: ours, and what a user's type checker makes of them."""
    install(session, "typing", "-e", ".[cli]")
    session.run("mypy", "trio_ipv4", "tests/typing", "docs/examples")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "trio_ipv4", "--ignoreexternal")


@nox.session
def lint(session: nox.Session) -> None:
    """Check the style, the format, and which room imports which."""
    install(session, "lint", "-e", ".[cli]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session
def mutation(session: nox.Session) -> None:
    """Change the code a little, and see whether a test notices: a quick module, or `nox -s mutation -- all`."""
    install(session, "mutation", "-e", ".")
    modules = session.posargs or ("_values/source_filter.py",)
    session.run(*private_network(), "python", "tools/mutation/run.py", *modules)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error. Check its code, its search, and how Read the Docs builds it."""
    install(session, "docs-checks", "-e", ".[cli]")
    session.run("check-jsonschema", "--builtin-schema", "vendor.readthedocs", ".readthedocs.yaml")
    session.run("mypy", "docs/_extensions")
    session.run("sphinx-build", "-W", "--keep-going", "-n", "-E", "-q", "docs", str(HTML))
    session.run("python", "-m", "pytest", "tests/docs", env={"TRIO_IPV4_HTML": str(HTML)})


@nox.session
def build(session: nox.Session) -> None:
    """Build the distributions, check what is in them, and run the source's tests against the installed wheel."""
    install(session, "build")
    dist = make_distributions(session)
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    check_wheel(session, wheel)

    install(session, "test", f"{wheel}[cli]")
    with tarfile.open(source) as archive:
        archive.extractall(dist, filter="data")
    # What is unpacked would come first on Python's path, before the wheel; there is nothing to import in it now.
    unpacked = Path(str(source).removesuffix(".tar.gz"))
    shutil.rmtree(unpacked / "trio_ipv4")
    with session.chdir(unpacked):
        installed = session.run("python", "-c", "import trio_ipv4; print(trio_ipv4.__file__)", silent=True)
        if not Path(str(installed)).is_relative_to(Path(session.virtualenv.location).absolute()):
            session.error(f"the tests would import {installed}, not the wheel")
        run_tests(session, "python", "-m", "pytest", second=True)


@nox.session
def release_checks(session: nox.Session) -> None:
    """Check what is published: the same octets from two folders, the metadata, PyPI's page, and the workflows."""
    install(session, "release")
    dist = make_distributions(session, "--no-isolation", env=EPOCH)
    (source,) = dist.glob("*.tar.gz")
    check_reproducible(session, dist, source)
    session.run("python", "-m", "build", "--no-isolation", "--wheel", "--outdir", str(dist), env={**EPOCH, **PURE})
    wheels = [str(wheel) for wheel in sorted(dist.glob("*.whl"))]
    session.run("twine", "check", "--strict", str(source), *wheels)
    session.run("check-wheel-contents", *wheels)
    session.run("validate-pyproject", "pyproject.toml")
    session.run("pyroma", "--min", "10", str(source))
    workflows = [str(path) for path in sorted(HERE.glob(".github/workflows/*.yml"))]
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    session.run("zizmor", "--offline", "--quiet", "--persona", "pedantic", ".github")


@nox.session(default=False)
def wheels(session: nox.Session) -> None:
    """Build and audit each wheel that a release has, here: `nox -s wheels -- DIR` leaves them in DIR.

    It rehearses the release, which cibuildwheel builds on machines of each kind. Here one compiler has the C libraries
    of all four platforms. It gets this Python's headers, whose limited API is the same on each of the four.
    """
    install(session, "wheels")
    dist = make_distributions(session, "--sdist", "--no-isolation", env=EPOCH)
    raw = Path(session.create_tmp(), "raw")
    for platform, target in WHEELS.items():
        shutil.rmtree(raw, ignore_errors=True)
        machine = target.partition("-")[0]
        env = {**EPOCH, "CC": f"python -m ziglang cc -target {target}", "_PYTHON_HOST_PLATFORM": f"linux-{machine}"}
        if "musl" in target:
            # musl's names on Alpine and elsewhere differ. The process has it loaded already, so name none.
            env["LDFLAGS"] = "-nostdlib"
        session.run("python", "-m", "build", "--no-isolation", "--wheel", "--outdir", str(raw), env=env)
        (wheel,) = raw.glob("*.whl")
        session.run("wheel", "tags", "--remove", "--platform-tag", platform, str(wheel), env=EPOCH)
        (wheel,) = raw.glob("*.whl")
        session.run("auditwheel", "show", "--ldpaths", "", str(wheel))
        session.run("auditwheel", "repair", "--ldpaths", "", "--wheel-dir", str(dist), str(wheel), env=EPOCH)
        if not [*dist.glob(f"*{platform}*.whl")]:
            session.error(f"what was compiled is no {platform}")
    session.run("abi3audit", "--strict", "--summary", *(str(wheel) for wheel in sorted(dist.glob("*.whl"))))
    session.run("python", "-m", "build", "--no-isolation", "--wheel", "--outdir", str(dist), env={**EPOCH, **PURE})
    for path in sorted(dist.iterdir()):
        session.log(f"{sha256(path)}  {path.name}")
        if session.posargs:
            Path(session.posargs[0]).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, session.posargs[0])


@nox.session(default=False)
def install_matrix(session: nox.Session) -> None:
    """Install as users do who lack a compiler, headers, root, or the network; and the wheel under every Python."""
    install(session, "build", "uv")
    dist = make_distributions(session)
    session.run("python", "-m", "build", "--wheel", "--outdir", str(dist), env=PURE)
    # For example `nox -s install_matrix -- /opt/python3.14/bin/python3`.
    pythons = [path for version in PYTHONS if (path := shutil.which(f"python{version}"))]
    session.run("python", "tools/release/install_matrix.py", str(dist), *pythons, *session.posargs)


@nox.session(python=PYTHONS[0])
def sanitize(session: nox.Session) -> None:
    """Run the tests of what calls the compiled part, while undefined behaviour and misuse of the heap are errors.

    (What lies in one connection's buffers, which are one mapping, has no guards between.)
    """
    sanitizers = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"
    install(session, "build", *nox.project.dependency_groups(PROJECT, "test"))
    dist = make_distributions(session, "--wheel", env={"CFLAGS": f"-O1 -g {sanitizers}", "LDFLAGS": sanitizers})
    (wheel,) = dist.glob("*.whl")
    if wheel.name.endswith("none-any.whl"):
        session.error("nothing was compiled, so there is nothing to run")
    session.install("--force-reinstall", f"{wheel}[cli]")
    libraries = [
        str(session.run("gcc", f"-print-file-name={name}", external=True, silent=True)).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    env = {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself keeps much until the end.
        "PYTHONMALLOC": "malloc",  # Python's own allocator would hide what is behind an object's end.
    }
    modules = [
        *(f"kernel/test_{name}.py" for name in ("batch", "compiled", "lookup", "options", "shared_memory")),
        *(f"conn/test_{name}.py" for name in ("receive_send", "offload", "turns", "packet_conn")),
    ]
    # Not `python -m pytest`, which would import the checkout.
    run_tests(session, "pytest", *(f"tests/{module}" for module in modules), env=env)


@nox.session(default=False)
def benchmark(session: nox.Session) -> None:
    """Measure against C, Go and other libraries, in a private network. It takes minutes."""
    install(session, "benchmark", "-e", ".")
    session.run(*private_network(), "python", "tools/benchmarks/run.py", *session.posargs)


@nox.session(default=False)
def differential(session: nox.Session) -> None:
    """Compare the simulated network with the kernel in 500 random programs, or in `nox -s differential -- 5000`."""
    install(session, "test", "-e", ".")
    programs = (session.posargs or ("500",))[0]
    env = {"TRIO_IPV4_PROGRAMS": programs, "TRIO_IPV4_REQUIRE_LAB": "1"}
    session.run(*private_network(), "python", "-m", "pytest", "tests/testing/test_differential.py", env=env)


@nox.session(default=False)
def doctor(session: nox.Session) -> None:
    """Ask `trio-ipv4 doctor` about every fault that we can make, with every privilege, three times: `-- --sample 9`.

    As root. It takes hours: each network is made with the fault and without, beside other traffic and without.
    """
    install(session, "test", "-e", ".[cli]")
    session.run("python", "tools/doctor_matrix.py", session.create_tmp(), *(session.posargs or ("--rounds", "3")))


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Hunt for bytes that a parser can't take: `nox -s fuzz -- --seconds 600`, with the name of a target for one."""
    install(session, "test", "-e", ".")
    session.run("python", "tools/fuzz/run.py", *(session.posargs or ("--seconds", "60")))


@nox.session(default=False)
def screenshots(session: nox.Session) -> None:
    """Take pictures of pages of the documentation into docs/_build/screenshots: all, or `-- reference/errors.html`.

    They are for somebody to look at. It takes Debian's chromium.
    """
    install(session, "screenshots", "-e", ".[cli]")
    session.run("sphinx-build", "-W", "-E", "-q", "docs", str(HTML))
    session.run("python", "tools/screenshots.py", str(HTML), str(HTML.parent / "screenshots"), *session.posargs)


@nox.session(default=False)
def pythons(session: nox.Session) -> None:
    """Run the tests under more Pythons, and write docs/reference/pythons.md: `-- --wheels DIR FOLDER python3.12`.

    As root. DIR has the wheels, by `nox -s wheels -- DIR`; without it, the source is installed. FOLDER is one that
    tools/pythons/chroot.py made. Without a Python, the page is written anew from what was run before.
    """
    results = HERE / ".nox" / "results-of-pythons"  # Not .nox/pythons: that is this session's environment.
    session.run("python", "tools/pythons/run.py", str(results), *session.posargs)


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """Join, leave, flood, flap and cancel for an hour, or for `nox -s soak -- --minutes 5`."""
    install(session, "test", "-e", ".")
    session.run(*private_network(), "python", "tools/soak.py", *(session.posargs or ("--minutes", "60")))


def install(session: nox.Session, group: str, *arguments: str) -> None:
    """Install a dependency group and more, in one resolution."""
    session.install(*nox.project.dependency_groups(PROJECT, group), *arguments)


def make_distributions(session: nox.Session, *options: str, env: dict[str, str] | None = None) -> Path:
    """Build them anew, and return the directory in which they are."""
    dist = Path(session.create_tmp(), "dist").absolute()
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist), *options, env=env)
    return dist


def check_reproducible(session: nox.Session, dist: Path, source: Path) -> None:
    """Build once more, from the source distribution, in a folder with another name: the octets have to be the same."""
    elsewhere = Path(session.create_tmp(), "a longer name for the same source")
    shutil.rmtree(elsewhere, ignore_errors=True)
    with tarfile.open(source) as archive:
        archive.extractall(elsewhere, filter="data")
    (unpacked,) = elsewhere.iterdir()
    again = elsewhere / "dist"
    session.run("python", "-m", "build", "--no-isolation", "--outdir", str(again), str(unpacked), env=EPOCH)
    first, second = ({path.name: sha256(path) for path in folder.iterdir()} for folder in (dist, again))
    if first != second:
        session.error(f"another folder gives other octets: {first} and {second}")
    session.log(f"two folders give the same octets: {first}")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_tests(session: nox.Session, *pytest: str, second: bool = False, env: dict[str, str] | None = None) -> None:
    """Run pytest where it may make network namespaces: as root, or as the root of a user namespace."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    report = f"--junitxml={RESULTS / session.name}.xml"
    require = {"TRIO_IPV4_REQUIRE_LAB": "1"} if "CI" in os.environ else {}
    # Each test has a network namespace of its own, so they can run side by side. One that hangs ends its worker, and
    # fails.
    options = ("-n", "2", "--timeout=120", "--timeout-method=thread", report)
    if second and not session.posargs:
        options += (f"--second-python={RESULTS / session.name}.left-out",)
    session.run(*private_network(), *pytest, *options, *session.posargs, env={**require, **(env or {})})


def private_network() -> tuple[str, ...]:
    """Return what makes of a command one that may make network namespaces, as root can anyway."""
    return ("python", "-m", "trio_ipv4.testing") if sys.platform == "linux" and os.geteuid() != 0 else ()


def check_wheel(session: nox.Session, wheel: Path) -> None:
    """Check that the wheel holds the package, its metadata and the licences, and nothing else."""
    package = {path.relative_to(HERE).as_posix() for path in HERE.glob("trio_ipv4/**/*") if path.is_file()}
    package = {name for name in package if not name.endswith(".c")}
    if sys.platform == "linux":
        package.add("trio_ipv4/_kernel/calls/_mmsg.abi3.so")  # An editable installation has put it there, or not.
    licences = {f"licenses/{path.name}" for path in HERE.glob("LICENSE*")}
    metadata = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", *licences}
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    expected = {name for name in package if "__pycache__" not in name} | {f"{info}/{name}" for name in metadata}
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    if found != expected:
        session.error(f"the wheel lacks {sorted(expected - found)} and has besides {sorted(found - expected)}")
