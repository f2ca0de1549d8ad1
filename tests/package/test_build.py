"""What hatch_build.py makes: the same octets anywhere, and nothing of anybody else's is lost."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
NEEDED = ["pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "LICENSE.APACHE2", "LICENSE.MIT"]
COMPILED = Path("trio_ipv4/_kernel/calls/_mmsg.abi3.so")
OTHERS = b"compiled by another Python's editable installation"

PLAIN = ""
FREE_THREADED = "import sysconfig; sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1"
PYPY = "import sys; sys.implementation.name = 'pypy'"


def checkout(folder: Path) -> Path:
    """Copy what is built from, as a checkout in which nothing was built yet."""
    folder.mkdir(parents=True)
    for name in NEEDED:
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "trio_ipv4", folder / "trio_ipv4", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return folder


def build(folder: Path, what: str, *, python: str = PLAIN, umask: int = 0o022, **env: str) -> Path:
    """Call the backend as pip does (PEP 517), by a Python of some kind, and return what it made."""
    code = f"{python}\nimport sys, hatchling.build; print(hatchling.build.build_{what}(sys.argv[1]))"
    out = folder.with_name(f"{folder.name}.dist")
    inherited = {name: value for name, value in os.environ.items() if name not in {"CFLAGS", "TRIO_IPV4_PURE"}}
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)],
        cwd=folder,
        env={**inherited, "SOURCE_DATE_EPOCH": "1700000000", **env},
        umask=umask,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return out / done.stdout.split()[-1]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("what", ["wheel", "sdist"])
def test_two_folders_give_the_same_octets(tmp_path: Path, what: str) -> None:
    one = build(checkout(tmp_path / "one"), what)
    private = build(checkout(tmp_path / "two" / "with a long name and spaces"), what, umask=0o077)
    assert one.name == private.name
    assert sha256(one) == sha256(private)


def test_the_compiled_part_names_no_folder(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "source")
    with zipfile.ZipFile(build(folder, "wheel")) as wheel:
        compiled = wheel.read(COMPILED.as_posix())
    assert b"recvmmsg" in compiled
    for each in (folder, sys.prefix, sys.base_prefix + "/lib", sys.base_prefix + "/include"):
        assert os.fsencode(each) not in compiled


def test_cflags_have_the_last_word(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "source")
    with zipfile.ZipFile(build(folder, "wheel", CFLAGS="-g")) as wheel:
        assert b".debug_info" in wheel.read(COMPILED.as_posix())
    with zipfile.ZipFile(build(folder, "wheel")) as wheel:
        assert b".debug_info" not in wheel.read(COMPILED.as_posix())


def test_a_wheel_leaves_the_checkout_as_it_was(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "source")
    before = sorted(folder.rglob("*"))
    build(folder, "wheel")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("python", "env"),
    [
        pytest.param(FREE_THREADED, {}, id="free-threaded"),
        pytest.param(PYPY, {}, id="pypy"),
        pytest.param(PLAIN, {"TRIO_IPV4_PURE": "1"}, id="wanted"),
        pytest.param(PLAIN, {"CC": "false"}, id="no compiler"),
    ],
)
class TestNothingIsCompiled:
    def test_the_wheel_is_for_every_platform(self, tmp_path: Path, python: str, env: dict[str, str]) -> None:
        wheel = build(checkout(tmp_path / "source"), "wheel", python=python, **env)
        assert wheel.name.endswith("-py3-none-any.whl")
        with zipfile.ZipFile(wheel) as archive:
            assert COMPILED.as_posix() not in archive.namelist()

    def test_an_editable_installation_keeps_what_another_compiled(
        self, tmp_path: Path, python: str, env: dict[str, str], capfd: pytest.CaptureFixture[str]
    ) -> None:
        folder = checkout(tmp_path / "source")
        (folder / COMPILED).write_bytes(OTHERS)
        build(folder, "editable", python=python, **env)
        assert (folder / COMPILED).read_bytes() == OTHERS
        told = capfd.readouterr().err
        assert f"trio-ipv4 keeps {COMPILED.name} from another installation of this checkout: " in told
        assert "pure Python" not in told


def test_an_editable_installation_does_not_keep_what_is_older_than_its_source(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = checkout(tmp_path / "source")
    (folder / COMPILED).write_bytes(OTHERS)
    os.utime(folder / COMPILED, (1, 1))
    build(folder, "editable", CC="false")
    assert not (folder / COMPILED).exists()
    told = capfd.readouterr().err
    assert "trio-ipv4 stays pure Python: " in told
    assert COMPILED.name not in told


def test_an_editable_installation_replaces_the_compiled_part_in_one_step(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "source")
    (folder / COMPILED).write_bytes(OTHERS)
    with (folder / COMPILED).open("rb") as used:  # As a program has it open that runs meanwhile.
        build(folder, "editable")
        assert used.read() == OTHERS
    assert b"recvmmsg" in (folder / COMPILED).read_bytes()
    assert [path.name for path in (folder / COMPILED).parent.glob("*.so")] == [COMPILED.name]


def test_the_tests_have_what_the_build_requires() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["dependency-groups"]["backend"] == project["build-system"]["requires"]
