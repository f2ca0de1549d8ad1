"""Connections: one socket each, with its options, its memberships and its traffic."""

# From the top; each imports only what is below it:
#
#   open                             the ways in: open_udp, open_ip, open_raw, open_unprivileged_icmp
#   packet, raw                      PacketConn and RawConn: their codecs, and how their parts fit together
#   offload                          UDP_GRO, which must not meet a BPF program
#   options, memberships, traffic,   the parts of a datagram connection, side by side
#     reports
#   owned, membership                what the parts stand on: a socket that is owned; one scope of `joined`
#   inbox, outbox, ledger, conn      datagrams in and out, who holds which filter, and the options of any socket
#   monitor, routes, holds           what the interfaces are now, and the other things that the ledger asks
#   codec, caches, switches          values and octets; tables that remember; which facts a socket receives
#   turns, error_queue               one trio socket, shared by tasks; errors and timestamps that came back
#   option_rows, where, warn         an option as a row; predicates; warnings
