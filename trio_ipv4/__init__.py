"""IPv4 at the IP level for trio."""

from __future__ import annotations

# The layers, from the top; each may import only what is below it (import-linter holds this):
#
#   __main__, _cli, testing   the command line; the network lab: they import this door, like any stranger
#   _serve, _follow           serve_group, follow_group: tasks in the caller's nursery
#   _matching                 which interfaces match, as they come and go
#   _watch                    interfaces, and the groups that they are in, as they come and go
#   _conn                     connections: turns, options, memberships, traffic, errors that come back, and the ways in
#   _kernel                   the one room that talks to the kernel; a part of it in C, where compiled
#   _codec                    pure, and not public: rtnetlink, the steps of the explicit operations
#   _values                   immutable values that parse and marshal bytes
#   _abi                      how one platform's kernel spells things
#   _errors                   the error family and the advice
from typing import TYPE_CHECKING

from trio_ipv4._conn.conn import Conn as Conn
from trio_ipv4._conn.membership import Membership as Membership
from trio_ipv4._conn.open import open_ip as open_ip
from trio_ipv4._conn.open import open_raw as open_raw
from trio_ipv4._conn.open import open_udp as open_udp
from trio_ipv4._conn.open import open_unprivileged_icmp as open_unprivileged_icmp
from trio_ipv4._conn.packet import PacketConn as PacketConn
from trio_ipv4._conn.raw import RawConn as RawConn
from trio_ipv4._conn.traffic import Batches as Batches
from trio_ipv4._conn.where import InterfacePredicate as InterfacePredicate
from trio_ipv4._conn.where import can_hear_multicast as can_hear_multicast
from trio_ipv4._errors import CappedBufferWarning as CappedBufferWarning
from trio_ipv4._errors import DeafMembershipWarning as DeafMembershipWarning
from trio_ipv4._errors import MembershipWarning as MembershipWarning
from trio_ipv4._errors import NoInterfaceWarning as NoInterfaceWarning
from trio_ipv4._errors import ParseError as ParseError
from trio_ipv4._errors import PartialSendError as PartialSendError
from trio_ipv4._errors import RefusedInterfaceWarning as RefusedInterfaceWarning
from trio_ipv4._errors import SourceSpecificRangeWarning as SourceSpecificRangeWarning
from trio_ipv4._errors import UnsupportedError as UnsupportedError
from trio_ipv4._follow import follow_group as follow_group
from trio_ipv4._kernel.calls.choice import Implementation as Implementation
from trio_ipv4._kernel.input_route import input_route as input_route
from trio_ipv4._kernel.memberships import host_memberships as host_memberships
from trio_ipv4._kernel.native import implementation as implementation
from trio_ipv4._kernel.netlink import interface_by_index as interface_by_index
from trio_ipv4._kernel.netlink import interface_by_name as interface_by_name
from trio_ipv4._kernel.netlink import interfaces as interfaces
from trio_ipv4._kernel.sockets import SocketOption as SocketOption
from trio_ipv4._matching import RefusalHandler as RefusalHandler
from trio_ipv4._serve import Closable as Closable
from trio_ipv4._serve import InterfaceHandler as InterfaceHandler
from trio_ipv4._serve import serve_group as serve_group
from trio_ipv4._serve import serve_interfaces as serve_interfaces
from trio_ipv4._values.bpf import RawInstruction as RawInstruction
from trio_ipv4._values.bpf import parse_bpf as parse_bpf
from trio_ipv4._values.checksum import internet_checksum as internet_checksum
from trio_ipv4._values.control import ControlFlags as ControlFlags
from trio_ipv4._values.control import ControlMessage as ControlMessage
from trio_ipv4._values.control import OtherControl as OtherControl
from trio_ipv4._values.datagram import Datagram as Datagram
from trio_ipv4._values.datagram import RawDatagram as RawDatagram
from trio_ipv4._values.fields import AddressLike as AddressLike
from trio_ipv4._values.fields import Endpoint as Endpoint
from trio_ipv4._values.fields import EndpointLike as EndpointLike
from trio_ipv4._values.group import GroupReq as GroupReq
from trio_ipv4._values.header import Header as Header
from trio_ipv4._values.header import HeaderFlags as HeaderFlags
from trio_ipv4._values.host_membership import HostMembership as HostMembership
from trio_ipv4._values.host_membership import MembershipChange as MembershipChange
from trio_ipv4._values.host_membership import MembershipChangeKind as MembershipChangeKind
from trio_ipv4._values.icmp import ICMPFilter as ICMPFilter
from trio_ipv4._values.icmp import ICMPType as ICMPType
from trio_ipv4._values.icmp_error import ICMPDestinationUnreachable as ICMPDestinationUnreachable
from trio_ipv4._values.icmp_error import ICMPParameterProblem as ICMPParameterProblem
from trio_ipv4._values.icmp_error import ICMPRedirect as ICMPRedirect
from trio_ipv4._values.icmp_error import ICMPTimeExceeded as ICMPTimeExceeded
from trio_ipv4._values.icmp_error import UnreachableCode as UnreachableCode
from trio_ipv4._values.icmp_extension import ICMPExtension as ICMPExtension
from trio_ipv4._values.icmp_extension import ICMPExtensionObject as ICMPExtensionObject
from trio_ipv4._values.icmp_extension import InterfaceInformation as InterfaceInformation
from trio_ipv4._values.icmp_extension import InterfaceRole as InterfaceRole
from trio_ipv4._values.icmp_extension import MPLSLabel as MPLSLabel
from trio_ipv4._values.icmp_extension import MPLSLabelStack as MPLSLabelStack
from trio_ipv4._values.icmp_extension import marshal_extensions as marshal_extensions
from trio_ipv4._values.icmp_extension import parse_extensions as parse_extensions
from trio_ipv4._values.icmp_message import ICMPEcho as ICMPEcho
from trio_ipv4._values.icmp_message import ICMPMessage as ICMPMessage
from trio_ipv4._values.icmp_message import ICMPOther as ICMPOther
from trio_ipv4._values.icmp_message import ICMPTimestamp as ICMPTimestamp
from trio_ipv4._values.icmp_message import parse_icmp as parse_icmp
from trio_ipv4._values.igmp import IGMPLeave as IGMPLeave
from trio_ipv4._values.igmp import IGMPMessage as IGMPMessage
from trio_ipv4._values.igmp import IGMPOther as IGMPOther
from trio_ipv4._values.igmp import IGMPv1Report as IGMPv1Report
from trio_ipv4._values.igmp import IGMPv2Report as IGMPv2Report
from trio_ipv4._values.igmp import IGMPv3Report as IGMPv3Report
from trio_ipv4._values.igmp import parse_igmp as parse_igmp
from trio_ipv4._values.igmp_query import IGMPQuery as IGMPQuery
from trio_ipv4._values.igmp_record import GroupRecord as GroupRecord
from trio_ipv4._values.igmp_record import GroupRecordType as GroupRecordType
from trio_ipv4._values.input_route import InputRoute as InputRoute
from trio_ipv4._values.interface import Interface as Interface
from trio_ipv4._values.interface import InterfaceChange as InterfaceChange
from trio_ipv4._values.interface import InterfaceChangeKind as InterfaceChangeKind
from trio_ipv4._values.interface import InterfaceFlags as InterfaceFlags
from trio_ipv4._values.interface import InterfaceLike as InterfaceLike
from trio_ipv4._values.path_mtu import PathMTUDiscovery as PathMTUDiscovery
from trio_ipv4._values.socket_error import ErrorOrigin as ErrorOrigin
from trio_ipv4._values.socket_error import SocketError as SocketError
from trio_ipv4._values.source_filter import FilterMode as FilterMode
from trio_ipv4._values.source_filter import SourceFilter as SourceFilter
from trio_ipv4._values.timestamps import Timestamping as Timestamping
from trio_ipv4._watch import InterfaceWatch as InterfaceWatch
from trio_ipv4._watch import MembershipWatch as MembershipWatch
from trio_ipv4._watch import watch_interfaces as watch_interfaces
from trio_ipv4._watch import watch_memberships as watch_memberships

__all__ = [
    "AddressLike",
    "Batches",
    "CappedBufferWarning",
    "Closable",
    "Conn",
    "ControlFlags",
    "ControlMessage",
    "Datagram",
    "DeafMembershipWarning",
    "Endpoint",
    "EndpointLike",
    "ErrorOrigin",
    "FilterMode",
    "GroupRecord",
    "GroupRecordType",
    "GroupReq",
    "Header",
    "HeaderFlags",
    "HostMembership",
    "ICMPDestinationUnreachable",
    "ICMPEcho",
    "ICMPExtension",
    "ICMPExtensionObject",
    "ICMPFilter",
    "ICMPMessage",
    "ICMPOther",
    "ICMPParameterProblem",
    "ICMPRedirect",
    "ICMPTimeExceeded",
    "ICMPTimestamp",
    "ICMPType",
    "IGMPLeave",
    "IGMPMessage",
    "IGMPOther",
    "IGMPQuery",
    "IGMPv1Report",
    "IGMPv2Report",
    "IGMPv3Report",
    "Implementation",
    "InputRoute",
    "Interface",
    "InterfaceChange",
    "InterfaceChangeKind",
    "InterfaceFlags",
    "InterfaceHandler",
    "InterfaceInformation",
    "InterfaceLike",
    "InterfacePredicate",
    "InterfaceRole",
    "InterfaceWatch",
    "MPLSLabel",
    "MPLSLabelStack",
    "Membership",
    "MembershipChange",
    "MembershipChangeKind",
    "MembershipWarning",
    "MembershipWatch",
    "NoInterfaceWarning",
    "OtherControl",
    "PacketConn",
    "ParseError",
    "PartialSendError",
    "PathMTUDiscovery",
    "RawConn",
    "RawDatagram",
    "RawInstruction",
    "RefusalHandler",
    "RefusedInterfaceWarning",
    "SocketError",
    "SocketOption",
    "SourceFilter",
    "SourceSpecificRangeWarning",
    "Timestamping",
    "UnreachableCode",
    "UnsupportedError",
    "can_hear_multicast",
    "follow_group",
    "host_memberships",
    "implementation",
    "input_route",
    "interface_by_index",
    "interface_by_name",
    "interfaces",
    "internet_checksum",
    "marshal_extensions",
    "open_ip",
    "open_raw",
    "open_udp",
    "open_unprivileged_icmp",
    "parse_bpf",
    "parse_extensions",
    "parse_icmp",
    "parse_igmp",
    "serve_group",
    "serve_interfaces",
    "watch_interfaces",
    "watch_memberships",
]

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Look up `__version__` when it is asked for: `importlib.metadata` takes long to import."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

        try:
            return version("trio-ipv4")
        except PackageNotFoundError:
            raise AttributeError("trio_ipv4 is not installed, so it has no __version__") from None
