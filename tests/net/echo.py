#!/usr/bin/env python3
"""Answers UDP echoes (RFC 862), as a guest would: echo.py [TIMES]. Each TIMES times over, by default once."""

import selectors
import signal
import socket
import sys

_PORT = 7
_BUFFER_BYTES = 8 << 20
_SO_RCVBUFFORCE = 33  # Of <asm-generic/socket.h>; Python has no name for it.


def _listen(family, address):
    listener = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    # A busy machine's pauses must not lose what it was asked meanwhile.
    listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    listener.bind((address, _PORT))
    return listener


def main(times=1):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with selectors.DefaultSelector() as waiting:
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            waiting.register(_listen(family, address), selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for ready, _ in waiting.select():
                packet, asker = ready.fileobj.recvfrom(2048)
                for _ in range(times):
                    ready.fileobj.sendto(packet, asker)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
