"""The table of all faults."""

from __future__ import annotations

from typing import Final

from network_faults.rows_host import HOST
from network_faults.rows_network import NETWORK
from network_faults.rows_odd import ODD
from network_faults.rows_program import PROGRAM
from network_faults.rows_sender import SENDER

ROWS: Final = (*PROGRAM, *HOST, *NETWORK, *SENDER, *ODD)
FAULTS: Final = {fault.name: fault for fault in ROWS}
"""By name."""
