"""A simulated network: hosts that behave as Linux does, in this process, on a virtual clock."""

# The layers, from the top; each knows only those below it:
#
#   network                  simulate: the way in
#   hosts                    a host as a test sees it
#   machine, outside, order  a host's kernel, which is the library's System; tasks on no host; the order of tasks
#   input                    what it does with packets
#   internet, netlink        its sockets
#   options, datagrams       what these can do: options; receive and send
#   icmp_errors              who is told of an ICMP error
#   sockets                  what all sockets have
#   stamps, errors           transmit timestamps; the error queue
#   path_mtu, ping           the path MTU; ping sockets
#   memberships, routes      the rules about groups, and about ways and sources
#   reports, queues          how a host tells of its groups; what has come in
#   links                    who hears a packet, when, and whether at all
#   devices, icmp, igmp      interfaces; what kernels tell each other
#   world, capture           what all parts share; packets in a file
#   clock, packets           time; packets
#   linux, bpf, refuse       Linux's numbers, its programs on sockets, its refusals
