"""Writes to a redis one number after the other, and remembers what was acknowledged.

    redis_writer.py write ADDRESS PORT OUT      until SIGTERM; OUT then holds the count of acknowledged writes, and the
                                                longest wait for one in microseconds since SIGUSR1 or the start
    redis_writer.py check ADDRESS PORT COUNT    says how many of those it has not as they were written
"""

import signal
import socket
import sys
import time

_BATCH = 200


class _Ended(Exception):
    pass


def _end(*_):
    raise _Ended


def _value(number):
    return f"{number * 2654435761 % 4294967296:010d}" * 10


def _command(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)


class _Waits:
    def __init__(self):
        self.longest = 0
        self._since = time.monotonic_ns()

    def answered(self):
        now = time.monotonic_ns()
        self.longest, self._since = max(self.longest, now - self._since), now

    def forget(self, *_):
        self.longest = 0


def _write(link, answers, out):
    acknowledged = 0
    waits = _Waits()
    signal.signal(signal.SIGUSR1, waits.forget)
    try:
        with open(out, "w", encoding="ascii") as file:
            file.write("started")
        while True:
            link.sendall(_command("SET", f"number:{acknowledged}", _value(acknowledged)))
            answer = answers.readline()
            if answer != b"+OK\r\n":
                raise ConnectionError(f"write {acknowledged} was answered {answer!r}")
            acknowledged += 1
            waits.answered()
    except _Ended:
        pass
    with open(out, "w", encoding="ascii") as file:
        file.write(f"{acknowledged} {waits.longest // 1000}")


def _check(link, answers, count):
    wrong = 0
    for start in range(0, count, _BATCH):
        numbers = range(start, min(start + _BATCH, count))
        link.sendall(b"".join(_command("GET", f"number:{number}") for number in numbers))
        for number in numbers:
            length = int(answers.readline()[1:])
            if length < 0 or answers.read(length + 2)[:-2] != _value(number).encode():
                wrong += 1
    print(wrong)


def main():
    what, address, port, last = sys.argv[1:]
    signal.signal(signal.SIGTERM, _end)
    with socket.create_connection((address, int(port)), timeout=60) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = link.makefile("rb")
        if what == "write":
            _write(link, answers, last)
        else:
            _check(link, answers, int(last))


if __name__ == "__main__":
    main()
