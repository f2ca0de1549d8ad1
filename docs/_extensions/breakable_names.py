"""Let long names in tables break behind dots, underlines and slashes, so that no column goes out of sight."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

_TABLE: Final = re.compile(r"<table\b.*?</table>", re.DOTALL)
_NAME: Final = re.compile(r'(?<=<span class="pre">)[^<]{12,}(?=</span>)')
_JOINT: Final = re.compile(r"(?<=[\w)])(?:[._/](?=\w)|(?<=[a-z])(?=[A-Z][a-z]))")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the function below."""
    app.connect("html-page-context", let_names_break)
    return {"parallel_read_safe": True}


def let_names_break(_app: Sphinx, _page: str, _template: str, context: dict[str, Any], _tree: nodes.document) -> None:
    """Put `<wbr>`, which is not copied with the text, into the long names of each table."""
    if "body" in context:
        context["body"] = _TABLE.sub(lambda table: _NAME.sub(break_name, table[0]), context["body"])


def break_name(name: re.Match[str]) -> str:
    """Return a name with places to break."""
    return _JOINT.sub(r"\g<0><wbr>", name[0])
