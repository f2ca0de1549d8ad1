"""A page for each program in docs/examples, a list of them, and links to the pages.

The title of a page is the first clause of the program's docstring. So a new program appears on the site by itself.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

DOCS: Final = Path(__file__).parents[1]
PROGRAMS: Final = DOCS / "examples"
PAGES: Final = PROGRAMS / "pages"
"""Made at each build, and not in Git."""
LISTING: Final = """\
```{{literalinclude}} ../{program}
:language: python
:lines: {begins}-
:caption: {{download}}`{program} <../{program}>`
```
"""
_CLAUSE: Final = re.compile(r".*?(?=[(,:;]|\. |\.?$)")
_INDENTED: Final = re.compile(r"((?:^ {4}.*\n?)+)", re.MULTILINE)
_MENTION: Final = re.compile(r"(?:^|.*/)examples/(\w+)\.py")


class Example(NamedTuple):
    """A program, what its docstring says, and the line where the code begins."""

    name: str
    about: str
    rest: str
    begins: int

    @property
    def title(self) -> str:
        match = _CLAUSE.match(self.about)
        return match[0].rstrip() if match else self.about


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the functions below."""
    app.connect("builder-inited", write_pages)
    app.connect("doctree-read", link_mentions)
    app.add_directive("examples", ListOfExamples)
    return {"parallel_read_safe": True}


def examples() -> list[Example]:
    """Return all programs, by their names."""
    return [read(path) for path in sorted(PROGRAMS.glob("*.py"))]


def read(path: Path) -> Example:
    """Return what a program's docstring says."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if (text := ast.get_docstring(tree)) is None:
        raise ValueError(f"{path} has no docstring, and so no title")
    about, _, rest = text.partition("\n\n")
    # A page of ours in parentheses is for those who read the program; here it is a link (`told_in`).
    return Example(path.stem, re.sub(r" \([\w/-]+\.md\)", "", " ".join(about.split())), rest, tree.body[1].lineno)


def write_pages(_: Sphinx) -> None:
    """Write a page for each program; an unchanged one stays as it is, so that Sphinx need not read it again."""
    PAGES.mkdir(exist_ok=True)
    made = {PAGES / f"{each.name}.md": page(each) for each in examples()}
    for path in set(PAGES.glob("*.md")) - made.keys():
        path.unlink()
    for path, text in made.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def page(example: Example) -> str:
    """Return the page of a program."""
    told = " · ".join(f"[](../../{name}.md)" for name in told_in(example.name))
    parts = [
        f"# {example.title}",
        "" if example.about == f"{example.title}." else example.about,
        _INDENTED.sub(fenced, example.rest).strip(),
        f"**Explained in** {told}" if told else "",
        LISTING.format(program=f"{example.name}.py", begins=example.begins),
    ]
    return "\n\n".join(filter(None, parts))


def fenced(indented: re.Match[str]) -> str:
    """Return an indented part of a docstring as a block that nothing highlights as Python."""
    return f"```text\n{textwrap.dedent(indented[1]).rstrip()}\n```\n"


def told_in(name: str) -> Iterator[str]:
    """Find the pages that show a part of a program or name it."""
    for path in sorted(DOCS.glob("*/*.md")):
        if path.parent != PROGRAMS and re.search(rf"examples/{name}\.py", path.read_text(encoding="utf-8")):
            yield path.relative_to(DOCS).with_suffix("").as_posix()


class ListOfExamples(SphinxDirective):
    """A table of all programs, and what they say of themselves."""

    def run(self) -> list[nodes.Node]:
        lines = ["```{list-table}", ":widths: 34 66", ":class: examples", ""]
        for each in examples():
            lines += [f"* - [`{each.name}.py`](pages/{each.name}.md)", f"  - {each.about}"]
        return self.parse_text_to_nodes("\n".join([*lines, "```"]))


def link_mentions(app: Sphinx, doctree: nodes.document) -> None:
    """Let each link to a program, and each `docs/examples/name.py` in the text, lead to the page of the program."""
    document = app.env.docname
    if Path(document).is_relative_to("examples/pages"):
        return
    for node in [*doctree.findall(addnodes.download_reference), *doctree.findall(nodes.literal)]:
        target = node["reftarget"] if isinstance(node, addnodes.download_reference) else node.astext()
        match = _MENTION.fullmatch(target)
        if match is None or not (PROGRAMS / f"{match[1]}.py").exists() or isinstance(node.parent, nodes.reference):
            continue
        link = addnodes.pending_xref(
            "",
            *(node.children if isinstance(node, addnodes.download_reference) else [node.deepcopy()]),
            reftype="doc",
            refdomain="std",
            reftarget=f"/examples/pages/{match[1]}",
            refdoc=document,
            refexplicit=True,
            refwarn=True,
        )
        node.replace_self(link)
