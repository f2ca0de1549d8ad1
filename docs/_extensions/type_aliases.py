"""Documents type aliases by the docstring under their assignment.

autodoc looks in the module that it imports, which is `trio_ipv4` itself. There it finds only the docstring of `str`,
because most aliases are strings.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sphinx.pycode import ModuleAnalyzer

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the function below."""
    app.connect("autodoc-process-docstring", describe_alias)
    return {"parallel_read_safe": True}


def describe_alias(_app: Sphinx, what: str, name: str, value: object, _options: object, lines: list[str]) -> None:
    """Say of an alias what it stands for, and what is written under it."""
    if what == "data":
        package, _, alias = name.rpartition(".")
        meaning = [f"``{value}``", ""] if isinstance(value, str) else []
        lines[:] = [*meaning, *assigned(alias, package.partition(".")[0]).splitlines(), ""]


def assigned(name: str, package: str) -> str:
    """Return the docstring under the assignment to a name, in whatever module of a package; empty if there is none."""
    for module in sorted(each for each in sys.modules if each.partition(".")[0] == package):
        if getattr(sys.modules[module], "__file__", None) is None or not hasattr(sys.modules[module], name):
            continue
        if (found := ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name))) is not None:
            return "\n".join(found)
    return ""
