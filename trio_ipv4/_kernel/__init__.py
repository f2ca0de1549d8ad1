"""The one room that talks to a system. Synchronous; knows no trio."""

# The seam, and the real system behind it:
#
#   system            every call that the library makes, as two protocols; which system a program is on
#   native            this process's own network, by Python's socket, ioctl(2), and /proc
#   calls             recvmmsg(2) and sendmmsg(2): compiled, by ctypes, or one datagram at a time
#   libc, descriptors what Python's socket lacks
#
# What stands on it, and works on every system:
#
#   sockets, options  make and bind sockets; get and set options by name
#   groups            join, leave, source filters
#   bpf, offload      BPF programs and the ICMP filter; segmentation offload of UDP
#   error_queue       read a socket's error queue; switch errors and timestamps on
#   path_mtu          ask for the path MTU
#   netlink, lookup   list interfaces; resolve names, indexes and addresses through a socket
#   announce          tell switches and routers of a membership again
#   lifetimes         on which links IPv4 has ended and begun
#   namespaces        which network namespace a socket belongs to
#   explain, causes   an OSError becomes the same OSError with advice; why sending was refused
