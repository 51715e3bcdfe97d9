"""Runs test cases, or lists a file's: `run_case.py FILE CASE [FILE CASE]...` | `run_case.py --list FILE...`.

Exits with 77 when one was skipped, as ctest is told.
"""

import importlib
import os
import signal
import sys
import unittest

_SKIPPED = 77
# Less than ctest's own limit, so that the case still ends what it started.
_LIMIT_S = int(os.environ.get("MIGRATE_CASE_LIMIT", "150"))


def _load(path):
    folder, name = os.path.split(os.path.abspath(path))
    sys.path.insert(0, folder)
    return importlib.import_module(name.removesuffix(".py"))


def _cases(module):
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    for case in suite:
        for test in case:
            yield test.id().split(".", 1)[1]


def _out_of_time(*_):
    raise TimeoutError(f"the case took more than {_LIMIT_S} s")


def _run(path, case):
    signal.alarm(_LIMIT_S)
    suite = unittest.defaultTestLoader.loadTestsFromName(case, _load(path))
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    signal.alarm(0)
    if not result.wasSuccessful():
        return 1
    return _SKIPPED if result.skipped else 0


def main(arguments):
    if arguments[0] == "--list":
        for path in arguments[1:]:
            for case in _cases(_load(path)):
                print(os.path.basename(path), case)
        return 0
    signal.signal(signal.SIGALRM, _out_of_time)
    codes = [_run(path, case) for path, case in zip(arguments[::2], arguments[1::2], strict=True)]
    return 1 if 1 in codes else max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
