"""The pages at the top of the repository, and PyPI's page: each link leads somewhere, and all name one address."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.name for path in ROOT.glob("*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
URLS = PROJECT["urls"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/trio[-_]ipv4\b|https://trio[-_]?ipv4\.readthedocs\.io\b")


def links(text: str) -> list[str]:
    return LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def check(link: str, page: Path) -> None:
    """Check a relative link on a page."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.exists(), f"{page.name} links to {path}, which is not there"
    assert not anchor or anchor in anchors(target), f"{page.name} links to {link}; {target.name} has {anchors(target)}"


@cache
def pypi_page() -> str:
    """The description that the distributions have."""
    return ProjectMetadata(str(ROOT), PluginManager()).core.readme


@pytest.mark.parametrize("name", PAGES)
def test_each_relative_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    relative = [link for link in links(page.read_text(encoding="utf-8")) if not link.startswith("https://")]
    for link in relative:
        check(link, page)
    assert relative or name not in {"README.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md"}


def test_each_link_of_pypis_page_into_the_repository_is_to_a_file_of_this_version() -> None:
    prefix = f"{URLS['Source']}/blob/v{PROJECT['version']}/"
    ours = [link for link in links(pypi_page()) if link.startswith(URLS["Source"])]
    assert len(ours) > 10
    for link in ours:
        assert link.startswith(prefix)
        check(link.removeprefix(prefix), ROOT / "README.md")


def test_pypis_page_has_no_relative_link_but_to_its_own_headings() -> None:
    relative = [link for link in links(pypi_page()) if not link.startswith("https://")]
    assert all(link.startswith("#") for link in relative)


def test_pypis_page_is_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert LINK.sub("", pypi_page()) == LINK.sub("", readme)


@pytest.mark.parametrize("path", [*PAGES, "pyproject.toml", "docs", "trio_ipv4", ".github"])
def test_every_file_names_the_addresses_of_pyproject(path: str) -> None:
    top = ROOT / path
    files = [top] if top.is_file() else [file for file in top.rglob("*.*") if file.suffix in {".md", ".py", ".yml"}]
    for file in files:
        for found in ADDRESS.findall(file.read_text(encoding="utf-8")):
            assert found in {URLS["Source"], URLS["Documentation"]}, f"{file} names {found}"


def test_the_addresses_are_of_one_project() -> None:
    assert ADDRESS.fullmatch(URLS["Source"])
    assert ADDRESS.fullmatch(URLS["Documentation"])
    elsewhere = {name for name, url in URLS.items() if not url.startswith((URLS["Source"], URLS["Documentation"]))}
    assert not elsewhere
