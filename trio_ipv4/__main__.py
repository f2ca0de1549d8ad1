"""`python -m trio_ipv4`, and the `trio-ipv4` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say which extra it needs."""
    try:
        from trio_ipv4._cli import run  # noqa: PLC0415  # Only here: it needs the extra.
    except ModuleNotFoundError as error:
        if error.name not in {"cyclopts", "rich"}:
            raise
        sys.exit(f"The command line needs {error.name}: pip install 'trio-ipv4[cli]'")
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells have it.
    run()


if __name__ == "__main__":
    main()
