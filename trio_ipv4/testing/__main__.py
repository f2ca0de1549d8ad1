"""`python -m trio_ipv4.testing COMMAND ...`."""

from __future__ import annotations

import sys

from trio_ipv4.testing._command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
