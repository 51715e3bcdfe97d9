#!/usr/bin/env python3
"""What leaves by an interface from a guest: capture.py IFACE MAC, until SIGTERM.

Prints one JSON object: `frames`, in the order in which they left: [nanoseconds, kind, number]. Kinds are
udp, icmp, udp6 and icmp6 for echoes, with the probe's number; arp is a reply with the address of whom it is for; others have none.
"""

import json
import select
import signal
import socket
import struct
import sys

_ALL = 0x0003  # ETH_P_ALL
_BUFFER_BYTES = 32 << 20
# Python has no names for them: <asm-generic/socket.h>, <linux/if_packet.h>.
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS, _SOL_PACKET, _PACKET_STATISTICS = 33, 35, 263, 6
_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
_ETHERNET, _UDP_OR_ICMP, _IPV6_BYTES = 14, 8, 40
# By IP protocol: what the echo is called, and the ICMP type of one.
_ECHOES = {(_IPV4, 17): ("udp", None), (_IPV4, 1): ("icmp", 0), (_IPV6, 17): ("udp6", None), (_IPV6, 58): ("icmp6", 129)}


def _kind(frame):
    ethertype = int.from_bytes(frame[12:14], "big")
    if ethertype == _ARP:
        # A reply's number is the address that it is for.
        return "arp", int.from_bytes(frame[38:42], "big") if frame[21] == 2 else None
    if ethertype == _IPV4:
        protocol, head = frame[23], _ETHERNET + (frame[14] & 15) * 4
    elif ethertype == _IPV6:
        protocol, head = frame[20], _ETHERNET + _IPV6_BYTES
    else:
        return "other", None
    name, icmp_type = _ECHOES.get((ethertype, protocol), ("other", None))
    payload = frame[head + _UDP_OR_ICMP:]
    if name == "other" or len(payload) < 16 or (icmp_type is not None and frame[head] != icmp_type):
        return "other", None
    # As the probe writes it: its session, and the number, in this host's byte order.
    return name, struct.unpack_from("=QQ", payload)[1]


def main(interface, mac):
    mac = bytes.fromhex(mac.replace(":", ""))
    stopped, stop = socket.socketpair()
    signal.signal(signal.SIGTERM, lambda *_: stop.send(b"x"))
    frames = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as tap:
        tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        tap.bind((interface, _ALL))
        tap.setblocking(False)
        print("ready", flush=True)
        stopping = False
        while True:
            try:
                frame, control, _, address = tap.recvmsg(2048, 64)
            except BlockingIOError:
                if stopping:
                    break
                stopping = stopped in select.select([tap, stopped], [], [])[0]
                continue
            if address[2] == socket.PACKET_OUTGOING and frame[6:12] == mac:
                seconds, nanoseconds = struct.unpack("qq", control[0][2])
                frames.append((seconds * 1_000_000_000 + nanoseconds, *_kind(frame)))
        missed = struct.unpack("II", tap.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1]
    print(json.dumps({"frames": frames, "missed": missed}))


if __name__ == "__main__":
    main(*sys.argv[1:])
