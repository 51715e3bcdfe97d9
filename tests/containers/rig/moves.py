"""Migrations of containers by the command, between the hosts of hosts.py."""

from hosts import CRIU, SHIM

NAME = "guest"
# What is no loopback needs a word for it, or a certificate.
_INSECURE = ("--insecure",)


def criu_words(shim=True):
    """What `send`, `checkpoint` and `restore` are told of CRIU."""
    words = ["--criu", CRIU]
    if not shim:
        words.append("--no-criu-shim")
    elif SHIM:
        words += ["--criu-shim", SHIM]
    return words


def recv(bed, host, *words, criu=None):
    """A listener for one container; its address is `address`."""
    link = _INSECURE if bed.net else ()
    criu = criu or criu_words()
    return host.recv("--accept", "container", "--once", "--name", NAME, "--json", *criu, *link, *words)


def send(bed, guest, address, *words, strategy="precopy", shim=True, criu=None):
    """A `send` of the guest, wherever it is."""
    link = _INSECURE if bed.net else ()
    what = guest.called or f"pid:{guest.pid}"
    # Whoever hosts one that has arrived knows its CRIU.
    criu = () if what.startswith("vm:") else criu or criu_words(shim)
    return guest.host.start("send", what, address, "--strategy", strategy, "--json", *criu, *link, *words)


def moved(bed, guest, target, *words, strategy="precopy", shim=True, receiving=()):
    """Moves the guest; the report of `send`."""
    listener = recv(bed, target, *receiving)
    sender = send(bed, guest, listener.address, *words, strategy=strategy, shim=shim)
    if sender.wait(600) != 0:
        raise AssertionError(f"{sender}\n{listener}")
    report = sender.json()
    if report["outcome"] != "done":
        raise AssertionError(str(sender))
    guest.moved_to(target)
    return report
