"""What GoogleTest says while it runs."""

import re


class SkippedTests:
    """Finds skipped cases. `may_skip`: a pattern for those that may be; None allows all."""

    def __init__(self, may_skip):
        self._allowed = None if may_skip is None else re.compile(may_skip)
        self._rest = b""
        self._skipped = []

    def feed(self, data):
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            match = re.match(rb"\[  SKIPPED \] (\S+) \(\d+ ms\)", line)
            if match:
                self._skipped.append(match[1].decode())

    def forbidden(self):
        if self._allowed is None:
            return []
        return [name for name in self._skipped if not self._allowed.search(name)]
