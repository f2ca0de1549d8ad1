"""The directive `all-names`: a table of the public names of a module, made from its `__all__`."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from sphinx.util.docutils import SphinxDirective
from type_aliases import assigned

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("all-names", AllNames)
    return {"parallel_read_safe": True}


class AllNames(SphinxDirective):
    """`.. all-names:: MODULE`: each name with its kind and the first sentence about it, as a link to the reference."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        lines = [".. list-table::", "   :widths: 30 12 58", "   :class: names", ""]
        for name in sorted(module.__all__, key=str.lower):
            value = getattr(module, name)
            about = first_sentence(name, value, module.__name__.partition(".")[0])
            lines += [
                f"   * - :py:obj:`{name} <{module.__name__}.{name}>`",
                f"     - {kind(value)}",
                f"     - {about}",
            ]
        return self.parse_text_to_nodes("\n".join(lines))


def kind(value: object) -> str:
    """Say what a name stands for."""
    if not isinstance(value, type):
        return "function" if inspect.isroutine(value) else "type"
    for base, word in ((Warning, "warning"), (BaseException, "error")):
        if issubclass(value, base):
            return word
    return "class"


def first_sentence(name: str, value: object, package: str) -> str:
    """Return the first paragraph about a name: of its own docstring, or of the one under its assignment."""
    text = inspect.getdoc(value) if inspect.isroutine(value) or isinstance(value, type) else assigned(name, package)
    if not text:
        raise ValueError(f"there is no docstring for {name}")
    return " ".join(text.partition("\n\n")[0].split())
