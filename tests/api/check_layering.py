#!/usr/bin/env python3
"""Checks that includes only point downwards through the layers (docs/ARCHITECTURE.md).

    check_layering.py ROOT              lists what breaks the rules; exits 1 if anything does
    check_layering.py ROOT --expect F   exits 0 only if exactly the lines of F are found, in any order
"""
import argparse
import pathlib
import re
import sys

# A unit may include itself and the units it names here, and nothing else. The order is the house's,
# from the ground up; neighbours of one rank do not know each other.
RANKS = [
    ["include/migrate"],
    ["src/base"],
    ["src/wire", "src/memory"],
    ["src/forecast", "src/dirtylog", "src/transport", "src/net-takeover"],
    ["src/precopy", "src/postcopy"],
    ["src/session", "src/checkpoint"],
]
# Clients of the public API: what they need of the library, a third party must be able to have.
CLIENTS = ["adapters/kvm/vmm", "adapters/kvm", "adapters/containers"]
CLIENTS_MAY = ["include/migrate", "src/base"]
TOOLS = "tools"

# Heavy libraries stay out of the library; a test library stays out of everything that ships.
THIRD_PARTY_HOMES = {
    "boost/": ["tools", "adapters/containers"],
    "CLI/": ["tools", "adapters/containers"],
    "nlohmann/": ["tools", "adapters/containers"],
    "fmt/": ["tools", "adapters/containers"],
    "google/protobuf/": ["tools", "adapters/containers"],
    "gtest/": [],
    "gmock/": [],
    "benchmark/": [],
}
# Public headers stand on the language and on the kernel's and libc's own headers.
CXX_HEADER = re.compile(r"[a-z_]+")
SYSTEM_HEADER = re.compile(r"(sys|linux|asm|netinet|arpa)/[a-z_0-9/]+\.h")

INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')
SOURCES = {".hpp", ".h", ".cc", ".cpp", ".c"}
UNITS = [unit for rank in RANKS for unit in rank] + CLIENTS + [TOOLS]


def allowed_units():
    allowed = {}
    below = []
    for rank in RANKS:
        for unit in rank:
            allowed[unit] = set(below)
        below = below + rank
    for client in CLIENTS:
        allowed[client] = set(CLIENTS_MAY)
    allowed[TOOLS] = set(below) | set(CLIENTS)
    return allowed


def unit_of(path):
    """The unit a path relative to the root lies in; the deepest one wins."""
    text = path.as_posix() + "/"
    homes = [unit for unit in UNITS if text.startswith(unit + "/")]
    return max(homes, key=len) if homes else None


def resolve(root, including, name):
    """The file a quoted include names, relative to the root; None for a generated one."""
    for folder in (including.parent, root / "include", root / "src", root):
        candidate = (folder / name).resolve()
        if candidate.is_file() and candidate.is_relative_to(root):
            return candidate.relative_to(root)
    return None


def check_angled(unit, name):
    if unit == "include/migrate" and not (CXX_HEADER.fullmatch(name) or SYSTEM_HEADER.fullmatch(name)):
        return f"a public header includes <{name}>, which users may not have"
    for prefix, homes in THIRD_PARTY_HOMES.items():
        if name.startswith(prefix) and not any(unit.startswith(home) for home in homes):
            return f"{unit} includes <{name}>, which belongs to {' and '.join(homes) or 'tests'}"
    return None


def check_quoted(root, path, unit, name, allowed):
    target = resolve(root, path, name)
    if target is None:
        return check_angled(unit, name)
    other = unit_of(target)
    if other is None:
        return f"{unit} includes {target.as_posix()}, which is no part of the product"
    if other != unit and other not in allowed[unit]:
        return f"{unit} includes {target.as_posix()}, but {other} is not below it"
    return None


def check_file(root, path, allowed):
    relative = path.relative_to(root)
    unit = unit_of(relative)
    if unit is None:
        yield f"{relative.as_posix()}: lies in no known layer"
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quoted, angled = match.groups()
        if quoted:
            wrong = check_quoted(root, path, unit, quoted, allowed)
        else:
            wrong = check_angled(unit, angled)
        if wrong:
            yield f"{relative.as_posix()}:{number}: {wrong}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("root", type=pathlib.Path)
    parser.add_argument("--expect", type=pathlib.Path)
    arguments = parser.parse_args()
    root = arguments.root.resolve()

    allowed = allowed_units()
    files = sorted(
        path
        for folder in ("include", "src", "adapters", "tools")
        for path in (root / folder).rglob("*")
        if path.suffix in SOURCES and path.is_file()
    )
    found = [line for path in files for line in check_file(root, path, allowed)]
    if not files:
        found = [f"{root}: no source files"]

    if arguments.expect is None:
        print("\n".join(found) if found else f"{len(files)} files, every include points downwards")
        return 1 if found else 0
    expected = arguments.expect.read_text(encoding="utf-8").splitlines()
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(set(found) - set(expected))
    for line in missing:
        print(f"not found: {line}")
    for line in unexpected:
        print(f"not expected: {line}")
    return 1 if missing or unexpected or not expected else 0


if __name__ == "__main__":
    sys.exit(main())
