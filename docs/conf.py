"""How Sphinx builds the documentation."""

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.logging import getLogger

import trio_ipv4
import trio_ipv4.testing

sys.path.append(str(Path(__file__).parent / "_extensions"))

project = "trio-ipv4"
project_copyright = "the trio-ipv4 authors"
release = version_of("trio-ipv4")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
    "all_names",
    "breakable_names",
    "example_pages",
    "type_aliases",
]
exclude_patterns = ["_build"]
nitpicky = True  # Read the Docs builds without our options.

html_theme = "furo"
pygments_dark_style = "github-dark"  # Furo's own choice underlines imported names, as if they were links.
html_title = f"trio-ipv4 {release}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]

# The docstrings write `Name`: a link where Name is ours, code where it isn't.
default_role = "py:obj"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
myst_heading_anchors = 3
toc_object_entries_show_parents = "hide"

# A name of ours must lead somewhere. The standard library's and trio's can't without the network, where their
# inventories are.
nitpick_ignore_regex = [(r"py:.*", r"(?!trio_ipv4\b).*")]

# The library's own types that a signature names and that a user never does: by what they can do.
SPELLINGS = {
    r"~?trio_ipv4\._conn\.traffic\.Batches\[.*?\]": "~collections.abc.AsyncIterator[~collections.abc.Sequence[VALUE]]",
    r"~?(trio_ipv4\._conn\.traffic\.)?\bValueT\b": "VALUE",
    r"~?trio_ipv4\._watch\.InterfaceWatch": "~contextlib.AbstractAsyncContextManager"
    "[~collections.abc.AsyncIterator[~trio_ipv4.InterfaceChange]]",
    r"\bMemberships\b": "PacketConn | RawConn",
    r"<function (\w+)>": "...",  # The default is a function that has no public name; the text says what it does.
    r"<(\w+)\.(\w+)\|(\w+): \d+>": r"\1.\2 | \1.\3",
}


# A row of options shows its value's type: those who use it see an int or a bool.
for owner in {owner for conn in (trio_ipv4.PacketConn, trio_ipv4.RawConn) for owner in conn.__mro__}:
    for name, row in vars(owner).items():
        if (kind := {"IntegerOption": "int", "BoolOption": "bool"}.get(type(row).__name__)) is not None:
            owner.__annotations__[name] = kind


def setup(app: Sphinx) -> None:
    """Connect the functions below."""
    app.connect("autodoc-process-signature", spell_out)
    app.connect("env-check-consistency", check_that_every_name_is_documented)


def spell_out(*event: Any) -> tuple[str, str | None] | None:
    """Write what a user knows for the library's own types; for a connection's type variable, what it carries."""
    _app, _what, name, _object, _options, signature, returns = event
    if signature is None:
        return None
    value = "~trio_ipv4.RawDatagram" if ".RawConn." in name else "~trio_ipv4.Datagram"
    for pattern, spelling in SPELLINGS.items():
        signature = re.sub(pattern, spelling, signature).replace("VALUE", value)
        returns = returns and re.sub(pattern, spelling, returns).replace("VALUE", value)
    return signature, returns


def check_that_every_name_is_documented(_: Sphinx, environment: BuildEnvironment) -> None:
    """Warn of a public name that the reference lacks."""
    documented = environment.domains["py"].objects
    for module in trio_ipv4, trio_ipv4.testing:
        for name in module.__all__:
            if f"{module.__name__}.{name}" not in documented:
                getLogger(__name__).warning("%s.%s is not in the reference", module.__name__, name)
