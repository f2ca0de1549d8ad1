"""Compile `_mmsg.c`, where that can be done; elsewhere the package is pure Python and does the same.

setuptools knows how each platform and compiler wants it; hatchling only has to be told what came out. With
TRIO_IPV4_PURE=1 in the environment nothing is compiled.

The same source, compiler and SOURCE_DATE_EPOCH give the same octets, wherever the source is. So nothing in the
compiled part may name a folder: not its debugging information, not a run path.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

ROOM = Path("trio_ipv4/_kernel/calls")
SOURCE = "_mmsg.c"
COMPILED = "_mmsg.abi3.so"


class CompileHook(BuildHookInterface[Any]):
    """Have the compiled part in the wheel, whose tag then names the platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # An editable installation finds it beside its source; a wheel has it from elsewhere, and leaves the tree alone.
        room = Path(self.root) / ROOM
        beside = room / COMPILED if version == "editable" else None
        self.compiled_in = tempfile.mkdtemp()
        try:
            made = compile_in(Path(self.compiled_in), room / SOURCE)
        except Exception as error:  # A compiler's failure has no class of its own.
            left = beside is not None and leave(beside, room / SOURCE)
            outcome = f"keeps {COMPILED} from another installation of this checkout" if left else "stays pure Python"
            self.app.display_warning(f"trio-ipv4 {outcome}: {error}")
            return
        if beside:
            replace(beside, made)
        else:
            build_data["force_include"][str(made)] = (ROOM / COMPILED).as_posix()
        build_data["tag"] = f"cp311-abi3-{platform_tag()}"
        build_data["pure_python"] = False

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        shutil.rmtree(self.compiled_in, ignore_errors=True)


class BuildWithoutPaths(build_ext):
    """Link without the run path of the Python that builds: its users' Pythons are elsewhere, and it needs none."""

    def build_extensions(self) -> None:
        linker = self.compiler.linker_so
        self.compiler.linker_so = [argument for argument in linker if not argument.startswith("-Wl,-rpath")]
        super().build_extensions()


def compile_in(directory: Path, source: Path) -> Path:
    """Compile an extension module for the stable ABI of CPython 3.11, and return where it is; or raise."""
    if os.environ.get("TRIO_IPV4_PURE") == "1":
        raise RuntimeError("TRIO_IPV4_PURE is 1")
    if not sys.platform.startswith("linux"):
        raise RuntimeError("recvmmsg and sendmmsg are Linux's")
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise RuntimeError("this Python has not the stable ABI of CPython")
    # The last word is the caller's, whose CFLAGS may ask for debugging information.
    arguments = ["-g0", *shlex.split(os.environ.get("CFLAGS", ""))]
    extension = Extension("_mmsg", [str(source)], py_limited_api=True, extra_compile_args=arguments)
    command = BuildWithoutPaths(Distribution({"ext_modules": [extension]}))
    command.build_lib = command.build_temp = str(directory)
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath("_mmsg"))


def leave(beside: Path, source: Path) -> bool:
    """Leave the compiled part that is there, unless it is older than its source; tell whether there is one now.

    Another Python's editable installation of this checkout may use it. But what was made from another source may have
    another layout in memory.
    """
    if beside.exists() and beside.stat().st_mtime < source.stat().st_mtime:
        beside.unlink()
    return beside.exists()


def replace(beside: Path, made: Path) -> None:
    """Put `made` in the place of `beside` in one step: a program that runs meanwhile has the one or the other."""
    with tempfile.NamedTemporaryFile(dir=beside.parent, prefix="_mmsg.", suffix=".so", delete=False) as new:
        new.write(made.read_bytes())
    Path(new.name).chmod(made.stat().st_mode & 0o777)
    Path(new.name).replace(beside)


def platform_tag() -> str:
    """Return the platform that this Python is for, which need not be the machine's: it may be a 32-bit one."""
    platforms = (tag.platform for tag in sys_tags())
    return next(each for each in platforms if not each.startswith(("manylinux", "musllinux")))
