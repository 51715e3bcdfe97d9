#!/usr/bin/env python3
"""Two hosts and a client on one switch, as network namespaces: where a guest is seen to move.

    testbed.py up PREFIX [--lan-rate 10gbit] [--link-rate 10gbit]
    testbed.py down PREFIX

       PREFIX-a                       PREFIX-switch                     PREFIX-b
    guest (tap) ── lan ── uplink ───── a ── lan ── b ───── uplink ── lan ── guest (tap)
                                            │
    link ═══════════════════════════════════╪══════════════════════════════ link
    10.77.0.1/30                            │                       10.77.0.2/30
                                   client ──┘
                                     └──── lan, in PREFIX-client: 10.78.0.1/24, fd78::1/64

Each host has a bridge `lan` with its uplink and the guest's tap `guest`; `link` is for migrations. The
switch is a bridge in a namespace of its own, so that what it has learned and what the client
believes are told apart. A guest is 10.78.0.2 and fd78::2. Both ends of an uplink and of the link are
shaped by tbf. PREFIX has 1 to 20 characters; one that is unique lets testbeds stand side by side.
`down` also removes what an `up` that was cut short has left, and never fails for lack of something.
As a context manager in Python it is taken down by a process of its own, whatever ends its user.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time

NAMESPACES = ("switch", "client", "a", "b")
HOSTS = ("a", "b")
LINK = {"a": "10.77.0.1", "b": "10.77.0.2"}
CLIENT_IP, CLIENT_IP6 = "10.78.0.1", "fd78::1"
GUEST_IP, GUEST_IP6 = "10.78.0.2", "fd78::2"
GUEST_MAC = "52:54:00:78:00:02"
RATE = "10gbit"
_PATIENCE_S, _PAUSE_S = 60.0, 0.01
_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


class TestbedError(Exception):
    """What could not be made, in words for who wanted it."""


def problem():
    """Why there can be no testbed here; None when there can."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs /dev/net/tun for taps, which does not open"
    return None


def _run(words, text=None):
    done = subprocess.run(words, input=text, stdin=subprocess.DEVNULL if text is None else None,
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TestbedError(f"`{' '.join(words)}` failed: {done.stderr.strip()}")
    return done.stdout


def _shape(rate):
    """Words of a qdisc for `rate`. The bucket is about 3 ms of traffic, what a timer tick needs; the
    queue may hold 20 ms."""
    match = re.fullmatch(r"([0-9.]+)([kmg]bit)", rate)
    if not match:
        raise TestbedError(f"{rate} is no rate such as 10gbit or 500mbit")
    bucket = max(int(float(match[1]) * _UNITS[match[2]] / 8 * 0.0032), 65536)
    return f"root tbf rate {rate} burst {bucket} latency 20ms"


class Testbed:
    def __init__(self, prefix, lan_rate=RATE, link_rate=RATE):
        # An interface's name in an error message, a file's in /run/netns.
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,20}", prefix):
            raise TestbedError(f"{prefix!r} is no prefix: 1 to 20 letters, digits, dots or dashes")
        self.prefix = prefix
        self._shapes = _shape(lan_rate), _shape(link_rate)
        self._guard = None

    def namespace(self, place):
        assert place in NAMESPACES, place
        return f"{self.prefix}-{place}"

    def inside(self, place):
        """Words to put before a command that is to run there."""
        return ["ip", "netns", "exec", self.namespace(place)]

    def up(self):
        why = problem()
        if why:
            raise TestbedError(why)
        taken = [self.namespace(place) for place in NAMESPACES if self._there(place)]
        if taken:
            # Somebody else's, who would lose it if this were undone.
            raise TestbedError(f"there is a namespace {taken[0]} already: take another prefix, or `down` it first")
        try:
            for place in NAMESPACES:
                _run(["ip", "netns", "add", self.namespace(place)])
            self._make_quiet()
            self._make_switch()
            for host in HOSTS:
                self._make_host(host)
            self._make_link()
            self._make_client()
            self._wait_until_it_forwards()
        except BaseException:
            self.down()
            raise

    def down(self):
        for place in NAMESPACES:
            # A namespace that is not there is none to remove.
            if self._there(place):
                _run(["ip", "netns", "del", self.namespace(place)])

    def _there(self, place):
        return os.path.exists(os.path.join("/run/netns", self.namespace(place)))

    def __enter__(self):
        # It reads until this process is gone, or closes the pipe: either way the testbed goes. Signals
        # from a terminal are for its user.
        # pylint: disable-next=consider-using-with
        self._guard = subprocess.Popen([sys.executable, "-B", os.path.abspath(__file__), "guard", self.prefix],
                                       stdin=subprocess.PIPE, start_new_session=True)
        try:
            self.up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self._guard is None:
            return
        self._guard.stdin.close()
        if self._guard.wait() != 0:
            raise TestbedError(f"the testbed {self.prefix} was not taken down")

    # What is learned, and by whom.

    def switch_port(self, mac=GUEST_MAC, place="switch"):
        """The port behind which that bridge has learned `mac`; None when it has not."""
        for entry in json.loads(_run(["bridge", "-n", self.namespace(place), "-j", "fdb", "show", "br", "lan"])):
            if entry["mac"] == mac and entry.get("state") != "permanent":
                return entry["ifname"]
        return None

    def client_knows(self, address=GUEST_IP):
        """The hardware address that the client has in its cache for `address`; None when it has none."""
        for entry in json.loads(_run(["ip", "-n", self.namespace("client"), "-j", "neigh", "show", address, "dev",
                                      "lan"])):
            return entry.get("lladdr")
        return None

    def client_believes(self, address, mac, state="stale"):
        """Puts `mac` into the client's cache for `address`: as heard a while ago, or as something to stay by."""
        _run(["ip", "-n", self.namespace("client"), "neigh", "replace", address, "lladdr", mac, "dev", "lan", "nud",
              state])

    def forget(self):
        """Bridges and client know nothing any more of where a guest was."""
        _run(["ip", "-n", self.namespace("client"), "neigh", "flush", "dev", "lan"])
        for place in ("switch", *HOSTS):
            self._ip(place, "link set dev lan type bridge fdb_flush")

    def answer_instead(self, host):
        """Gives the host itself the guest's addresses, so that its kernel answers pings in a guest's stead."""
        _run([*self.inside(host), "sysctl", "-qw", "net.ipv6.conf.lan.disable_ipv6=0"])
        self._ip(host, f"address add {GUEST_IP}/24 dev lan", f"address add {GUEST_IP6}/64 dev lan nodad")

    def cut(self, host):
        """The switch passes nothing on from or to `host` until it is mended; carriers stay."""
        self._port_state(host, "disabled")

    def mend(self, host):
        self._port_state(host, "forwarding")

    def _port_state(self, host, state):
        _run(["bridge", "-n", self.namespace("switch"), "link", "set", "dev", host, "state", state])

    def unshape_link(self):
        """Migrations go as fast as this machine is."""
        for host in HOSTS:
            self._tc(host, "qdisc del dev link root")

    # How it is made.

    def _ip(self, place, *lines):
        _run(["ip", "-n", self.namespace(place), "-batch", "-"], "\n".join(lines) + "\n")

    def _tc(self, place, *lines):
        _run(["tc", "-n", self.namespace(place), "-batch", "-"], "\n".join(lines) + "\n")

    def _make_quiet(self):
        """Hosts and switch have no addresses of their own in the guests' network: nothing of theirs is on it, and
        no host firewall in it."""
        quiet = ["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"]
        if os.path.exists("/proc/sys/net/bridge/bridge-nf-call-iptables"):
            quiet += [f"net.bridge.bridge-nf-call-{kind}=0" for kind in ("iptables", "ip6tables", "arptables")]
        for place in ("switch", *HOSTS):
            _run([*self.inside(place), "sysctl", "-qw", *quiet])

    def _make_switch(self):
        # Without STP and its delay a port forwards at once; addresses are learned from frames alone.
        self._ip("switch", "link add name lan type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                 "link set dev lan up")

    def _make_host(self, host):
        lan, _ = self._shapes
        self._ip(host, "link set dev lo up",
                 "link add name lan type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                 f"link add name uplink type veth peer name {host} netns {self.namespace('switch')}",
                 "tuntap add dev guest mode tap",
                 "link set dev uplink master lan up", "link set dev guest master lan up", "link set dev lan up")
        self._ip("switch", f"link set dev {host} master lan up")
        self._tc(host, f"qdisc add dev uplink {lan}")
        self._tc("switch", f"qdisc add dev {host} {lan}")

    def _make_link(self):
        _, link = self._shapes
        self._ip("a", f"link add name link type veth peer name link netns {self.namespace('b')}")
        for host in HOSTS:
            self._ip(host, f"address add {LINK[host]}/30 dev link", "link set dev link up")
            self._tc(host, f"qdisc add dev link {link}")

    def _make_client(self):
        self._ip("client", "link set dev lo up",
                 f"link add name lan type veth peer name client netns {self.namespace('switch')}")
        self._ip("switch", "link set dev client master lan up")
        _run([*self.inside("client"), "sysctl", "-qw", "net.ipv6.conf.lan.accept_dad=0"])
        self._ip("client", f"address add {CLIENT_IP}/24 dev lan", f"address add {CLIENT_IP6}/64 dev lan nodad",
                 "link set dev lan up")

    def _wait_until_it_forwards(self):
        """The kernel tells a bridge of a port's carrier once a second at most (its linkwatch)."""
        deadline = time.monotonic() + _PATIENCE_S
        for place, ports in (("switch", {*HOSTS, "client"}), ("a", {"uplink"}), ("b", {"uplink"})):
            while not ports <= self.forwarding(place):
                if time.monotonic() > deadline:
                    raise TestbedError(f"the ports of {self.namespace(place)} do not forward")
                time.sleep(_PAUSE_S)

    def forwarding(self, place):
        """The ports of that bridge which forward."""
        ports = json.loads(_run(["bridge", "-n", self.namespace(place), "-j", "link", "show"]))
        return {port["ifname"] for port in ports if port["state"] == "forwarding"}


def _guard(bed):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    bed.down()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("up", "down", "guard"))
    parser.add_argument("prefix", metavar="PREFIX")
    parser.add_argument("--lan-rate", default=RATE, help="of the guests' network [%(default)s]")
    parser.add_argument("--link-rate", default=RATE, help="of the link for migrations [%(default)s]")
    words = parser.parse_args()
    # Ended on the way up, it takes down what is there.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        bed = Testbed(words.prefix, words.lan_rate, words.link_rate)
        {"up": bed.up, "down": bed.down, "guard": lambda: _guard(bed)}[words.what]()
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
