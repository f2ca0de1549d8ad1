"""Tell which interpreter this is, how it was built, and the libraries that count."""

import contextlib
import importlib.metadata
import platform
import sysconfig

options = sysconfig.get_config_var("CONFIG_ARGS") or ""
build = "built with --enable-optimizations" if "--enable-optimizations" in options else "no --enable-optimizations"
if sysconfig.get_config_var("installed_base") == "/usr":
    build = "the distribution's build, optimised by the distribution's own rules"
versions = []
for name in ("trio", "attrs", "uvloop", "anyio"):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions.append(f"{name} {importlib.metadata.version(name)}")
print("CPython", ", ".join([platform.python_version(), build, sysconfig.get_config_var("OPT") or "", *versions]))
