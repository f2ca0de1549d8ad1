"""Programs of eBPF that drop the group 239.1.2.3, by bpf(2) alone: for XDP, for traffic control, and for a cgroup.

ebpf.py xdp DEVICE native|generic
ebpf.py tc PIN          (then: tc filter add dev DEVICE ingress bpf direct-action object-pinned PIN)
ebpf.py cgroup FOLDER   (which has to exist)
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys

from network_faults.frames import hardware_address

NR_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}[os.uname().machine]  # asm/unistd.h
# linux/bpf.h
BPF_PROG_LOAD, BPF_OBJ_PIN, BPF_PROG_ATTACH = 5, 6, 8
BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_XDP, BPF_PROG_TYPE_CGROUP_SKB = 3, 6, 8
BPF_XDP, BPF_CGROUP_INET_INGRESS = 37, 0
XDP_DROP, XDP_PASS = 1, 2
TC_ACT_OK, TC_ACT_SHOT = 0, 2  # linux/pkt_cls.h
XDP_FLAGS = {"generic": 2, "native": 4}  # linux/if_link.h: XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
MAC = hardware_address("239.1.2.3")
EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)


def instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, number: int = 0) -> bytes:
    return struct.pack("=BBhi", code, to | source << 4, offset, ctypes.c_int32(number).value)


def give(number: int) -> bytes:
    """r0 = number; exit."""
    return instruction(0xB7, 0, 0, 0, number) + EXIT


def drop_group(start: int, end: int, drop: int, let: int) -> bytes:
    """Drop frames to the group's hardware address; the context has the packet's start and end at these offsets."""
    first, last = struct.unpack("=IH", MAC)
    return b"".join(
        (
            instruction(0x61, 2, 1, start),  # r2 = start
            instruction(0x61, 3, 1, end),  # r3 = end
            instruction(0xBF, 4, 2),  # r4 = r2 + 6
            instruction(0x07, 4, 0, 0, len(MAC)),
            instruction(0x2D, 4, 3, 6),  # if r4 > r3: let
            instruction(0x61, 5, 2, 0),  # w5 = the first 4 octets
            instruction(0x69, 6, 2, 4),  # w6 = the last 2
            instruction(0x56, 5, 0, 3, first),  # if w5 != first: let
            instruction(0x56, 6, 0, 2, last),  # if w6 != last: let
            give(drop),
            give(let),
        )
    )


def bpf(command: int, request: bytes) -> int:
    buffer = ctypes.create_string_buffer(request, 128)
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(NR_BPF, command, buffer, ctypes.c_uint(128))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def load(kind: int, code: bytes, attach: int = 0) -> int:
    program, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"Dual MIT/GPL")
    log = ctypes.create_string_buffer(1 << 16)
    count, texts = len(code) // 8, (ctypes.addressof(program), ctypes.addressof(licence))
    logs = 1, len(log), ctypes.addressof(log)
    try:
        return bpf(BPF_PROG_LOAD, struct.pack("=IIQQIIQII16sII", kind, count, *texts, *logs, 0, 0, b"fault", 0, attach))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {log.value.decode()[-1000:]}") from None


def attach_xdp(device: str, mode: str) -> None:
    """By RTM_SETLINK (19) with IFLA_XDP (43)."""
    program = load(BPF_PROG_TYPE_XDP, drop_group(0, 4, XDP_DROP, XDP_PASS), BPF_XDP)
    fields = attribute(1, struct.pack("=i", program)) + attribute(3, struct.pack("=I", XDP_FLAGS[mode]))
    body = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(device), 0, 0) + attribute(43 | 0x8000, fields)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.bind((0, 0))
        netlink.send(struct.pack("=IHHII", 16 + len(body), 19, 5, 1, 0) + body)
        error = -struct.unpack_from("=i", netlink.recv(65536), 16)[0]
    if error:
        raise OSError(error, os.strerror(error))


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def pin_tc(path: str) -> None:
    """The fields `data` and `data_end` of struct __sk_buff stand at 76 and 80."""
    program = load(BPF_PROG_TYPE_SCHED_CLS, drop_group(76, 80, TC_ACT_SHOT, TC_ACT_OK))
    name = ctypes.create_string_buffer(path.encode())
    bpf(BPF_OBJ_PIN, struct.pack("=QII", ctypes.addressof(name), program, 0))


def attach_cgroup(folder: str) -> None:
    program = load(BPF_PROG_TYPE_CGROUP_SKB, give(0))
    group = os.open(folder, os.O_RDONLY)
    bpf(BPF_PROG_ATTACH, struct.pack("=IIII", group, program, BPF_CGROUP_INET_INGRESS, 0))


def main() -> None:
    what, *rest = sys.argv[1:]
    if what == "xdp":
        attach_xdp(*rest)
    elif what == "tc":
        pin_tc(*rest)
    else:
        attach_cgroup(*rest)


if __name__ == "__main__":
    main()
