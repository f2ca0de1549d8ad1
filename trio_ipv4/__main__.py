"""`python -m trio_ipv4`, and the `trio-ipv4` command."""

from __future__ import annotations

import importlib.util
import sys

_EXTRA = ("cattrs", "cyclopts", "rich")
"""The modules that the extra `cli` has (pyproject.toml)."""


def main() -> None:
    """Run the command line, or say which extra it needs."""
    try:
        # Not all of them are imported now, only by the command that needs them.
        for module in _EXTRA:
            if importlib.util.find_spec(module) is None:
                sys.exit(f"The command line needs {module}: pip install 'trio-ipv4[cli]', or '.[cli]' in a clone")
        from trio_ipv4._cli import run  # noqa: PLC0415  # Only here: it needs the extra.
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells have it.
    run()


if __name__ == "__main__":
    main()
