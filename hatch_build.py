"""Compile `trio_ipv4/_kernel/_mmsg.c`, where that can be done; elsewhere the package is pure Python and does the same.

setuptools knows how each platform and compiler wants it; hatchling only has to be told what came out. With
TRIO_IPV4_PURE=1 in the environment nothing is compiled.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOM = Path("trio_ipv4/_kernel")
SOURCE = "_mmsg.c"
COMPILED = "_mmsg.abi3.so"


class CompileHook(BuildHookInterface[Any]):
    """Have the compiled part in the wheel, whose tag then names the platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # An editable installation finds it beside its source; a wheel has it from elsewhere, and leaves the tree alone.
        editable = version == "editable"
        beside = Path(self.root) / ROOM / COMPILED
        if editable:
            beside.unlink(missing_ok=True)
        if refusal := why_not():
            self.app.display_info(f"trio-ipv4 stays pure Python: {refusal}")
            return
        self.directory_of_compiled = tempfile.mkdtemp()
        try:
            made = compile_in(Path(self.directory_of_compiled), Path(self.root) / ROOM / SOURCE)
        except Exception as error:  # A compiler's failure has no class of its own.
            self.app.display_warning(f"trio-ipv4 stays pure Python, since {SOURCE} could not be compiled: {error}")
            return
        if editable:
            shutil.copy(made, beside)
        else:
            build_data["force_include"][str(made)] = (ROOM / COMPILED).as_posix()
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"cp311-abi3-{platform}"
        build_data["pure_python"] = False

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        if directory := getattr(self, "directory_of_compiled", None):
            shutil.rmtree(directory, ignore_errors=True)


def why_not() -> str | None:
    """Say why there is nothing to compile, if there is not."""
    if os.environ.get("TRIO_IPV4_PURE") == "1":
        return "TRIO_IPV4_PURE is 1"
    if not sys.platform.startswith("linux"):
        return "recvmmsg and sendmmsg are Linux's"
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "this Python has not the stable ABI of CPython"
    return None


def compile_in(directory: Path, source: Path) -> Path:
    """Compile an extension module for the stable ABI of CPython 3.11, and return where it is."""
    from setuptools import Distribution, Extension  # noqa: PLC0415  # Needed only where something is compiled.

    extension = Extension("_mmsg", [str(source)], py_limited_api=True)
    command = Distribution({"ext_modules": [extension]}).get_command_obj("build_ext")
    command.build_lib = command.build_temp = str(directory)
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath("_mmsg"))
