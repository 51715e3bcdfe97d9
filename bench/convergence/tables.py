"""Text tables, and how figures are written in them."""


def number(value, digits=1):
    return "-" if value is None else f"{value:.{digits}f}"


def share(value):
    return "-" if value is None else f"{100 * value:.1f}%"


def show(columns, lines):
    """Words to the left, everything else to the right."""
    cells = [[str(cell) for cell in line] for line in [columns, *lines]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print(line[0].ljust(widths[0]) + "".join("  " + cell.rjust(width) for cell, width in zip(line[1:], widths[1:])))


def goal(text, met, missed=()):
    print(f"goal: {text}: {'met' if met else 'MISSED'}")
    for each in missed:
        print(f"    {each}")


def outcomes(rows):
    """`done`, or how many of each."""
    found = {}
    for row in rows:
        name = row["figures"]["error"] or row["figures"]["outcome"]
        found[name] = found.get(name, 0) + 1
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
