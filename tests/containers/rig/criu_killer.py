"""A CRIU that is killed at one of its hooks, as its caller sees it: `criu_killer.py REAL HOOK swrk FD`. Any other call
is the real program's."""

import array
import ctypes
import os
import signal
import socket
import sys

_MESSAGE_MAX = 1 << 20
_PR_SET_NAME = 15


def _receive(end):
    """A message and its descriptors; empty when there are no more."""
    data, ancillary, _, _ = end.recvmsg(_MESSAGE_MAX, socket.CMSG_SPACE(64 * 4))
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[:len(content) - len(content) % descriptors.itemsize])
    return data, list(descriptors)


def _pass_on(near, far, hook, criu):
    """Messages between the two, until CRIU tells of the hook."""
    import selectors  # pylint: disable=import-outside-toplevel

    watched = selectors.DefaultSelector()
    for end, other in ((near, far), (far, near)):
        watched.register(end, selectors.EVENT_READ, other)
    while True:
        for key, _ in watched.select():
            try:
                data, descriptors = _receive(key.fileobj)
            except OSError:
                return
            if not data:
                return
            # A notification has the hook's name in it, and little else.
            if key.fileobj is far and hook in data and len(data) < 256:
                os.kill(criu, signal.SIGKILL)
                return
            try:
                socket.send_fds(key.data, [data], descriptors)
            except OSError:
                return
            for descriptor in descriptors:
                os.close(descriptor)


def main():
    real, hook, *words = sys.argv[1:]
    if words[:1] != ["swrk"]:
        os.execv(real, [real, *words])
    number = int(words[1])
    near = socket.socket(fileno=os.dup(number))
    far, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    criu = os.getpid()
    # The one in between is the child: CRIU makes what it restores its own parent's.
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, b"criu", 0, 0, 0)
        kept = {near.fileno(), far.fileno()}
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in kept:
                try:
                    os.close(int(name))
                except OSError:
                    pass
        _pass_on(near, far, hook.encode(), criu)
        os._exit(0)
    os.dup2(inside.fileno(), number)
    os.execv(real, [real, *words])


main()
