"""Why the kernel itself threw away packets to the group: the tracepoint skb:kfree_skb, watched by an eBPF program.

Needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN. The names of the kernel's functions need CAP_SYSLOG besides; without it
places are empty. While it is open, a short program runs each time that this machine's kernel frees a packet. It ends
with its descriptors, and so with this process at the latest; nothing is left anywhere.
"""

# From the top:
#
#   witness    what was seen, as evidence
#   program    the program that counts
#   symbols    the names of the kernel's functions
#   syscalls   bpf(2)
#   assembler  instructions, and labels
#   btf        the running kernel's types

from __future__ import annotations

from trio_ipv4._cli.doctor.witnesses.drops.witness import DropsWitness as DropsWitness
from trio_ipv4._cli.doctor.witnesses.drops.witness import open_drops as open_drops
