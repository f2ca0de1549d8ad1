"""Take pictures of pages of the documentation, for somebody to look at: wide and narrow, light and dark.

    python tools/screenshots.py HTML FOLDER [PAGE ...]

HTML is where Sphinx has built them. A PAGE is a path in it, such as `reference/errors.html`. By default, those are
taken that have most to go wrong. Each picture shows a whole page. The browser is Debian's chromium, or the program
that CHROMIUM names. It reads files, and opens no connection. What sticks out of the window, and nobody can scroll to,
is printed.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from playwright.sync_api import Page, sync_playwright

PAGES: Final = (
    "index.html",
    "tutorial/hear.html",
    "how-to/nothing-arrives.html",
    "explanation/performance.html",
    "reference/connections.html",
    "reference/errors.html",
    "reference/names.html",
    "reference/platforms.html",
    "reference/values.html",
    "reference/cli/listen.html",
    "examples/index.html",
    "examples/pages/hear.html",
)
WIDTHS: Final = (1400, 500)
"""In pixels: a desk, and a phone."""
HEIGHT: Final = 900
MOST: Final = 6000
"""Pixels of a page that are shown."""
OPTIONS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
)
WIDER: Final = """() => {
    const wide = [...document.querySelectorAll("article *")].filter(each => {
        if (each.closest("svg") && each.tagName !== "svg") return false;
        if (each.getBoundingClientRect().right <= document.documentElement.clientWidth + 1) return false;
        for (let around = each.parentElement; around; around = around.parentElement)
            if (["auto", "scroll"].includes(getComputedStyle(around).overflowX)) return false;
        return true;
    });
    return wide.map(each => `${each.tagName} ${each.getAttribute("class")}: ${each.textContent.trim().slice(0, 60)}`);
}"""
"""What sticks out of the window, and is in nothing that can be scrolled."""


def main(html: Path, folder: Path, pages: list[str]) -> int:
    """Take all pictures; return 1 if something could not be seen, else 0."""
    folder.mkdir(parents=True, exist_ok=True)
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if program is None:
        raise SystemExit("there is no chromium; Debian has it as the package chromium")
    hidden = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*OPTIONS])
        for theme in ("light", "dark"):
            for width in WIDTHS:
                viewport = {"width": width, "height": HEIGHT}
                context = browser.new_context(color_scheme=theme, viewport=viewport)  # type: ignore[arg-type]
                for name in pages:
                    page = context.new_page()
                    page.goto((html / name).absolute().as_uri())
                    hidden += [f"{name} at {width}: {each}" for each in take(page, folder, name, theme, width)]
                    page.close()
        browser.close()
    print(*dict.fromkeys(hidden), sep="\n", end="\n" if hidden else "")
    return bool(hidden)


def take(page: Page, folder: Path, name: str, theme: str, width: int) -> list[str]:
    """Take one picture, and return what nobody could see on the page."""
    picture = folder / f"{name.removesuffix('.html').replace('/', '-')}-{width}-{theme}.png"
    height = min(int(page.evaluate("document.documentElement.scrollHeight")), MOST)
    page.screenshot(path=picture, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})
    return [str(each) for each in page.evaluate(WIDER)]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or [*PAGES]))
