#!/usr/bin/env python3
"""Asks all for an address again and again: ask.py IFACE ADDRESS, until SIGTERM.

A broadcast ARP request every 10 ms, each as from another sender, 198.18.0.0 and on (RFC 2544), so that answers tell
which request they are for. Prints how many there were, as one JSON object.
"""

import json
import select
import signal
import socket
import struct
import sys

_FIRST_SENDER = 0xC6120000
_EVERY_S = 0.01


def main(interface, address):
    stopped, stop = socket.socketpair()
    signal.signal(signal.SIGTERM, lambda *_: stop.send(b"x"))
    asked = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        wire.bind((interface, 0))
        mac = wire.getsockname()[4]
        print("ready", flush=True)
        while not select.select([stopped], [], [], _EVERY_S)[0]:
            wire.send(b"\xff" * 6 + mac + bytes.fromhex("0806" "0001080006040001") + mac
                      + struct.pack(">I", _FIRST_SENDER + asked) + bytes(6) + socket.inet_aton(address))
            asked += 1
    print(json.dumps({"asked": asked, "first": _FIRST_SENDER}))


if __name__ == "__main__":
    main(*sys.argv[1:])
