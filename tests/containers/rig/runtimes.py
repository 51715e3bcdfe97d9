"""Containers that runc and crun have started, as guests (guests.py)."""

import json
import os

from hosts import CONTAINER_HOST, RIG

ID = "box"
# What runtimes refuse to their containers by default, and a source or its tracker does in a tree's processes.
_REFUSED = ("userfaultfd", "ptrace", "personality", "process_vm_readv", "kcmp")
_GIVEN = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")


def problem(name):
    """Why there is no such runtime; None when there is."""
    for folder in ("usr/bin", "usr/sbin"):
        if os.access(os.path.join(RIG, "rootfs", folder, name), os.X_OK):
            return None
    return f"needs {name}, which the rig in {RIG} lacks; make it anew with tests/containers/rig/build_rig.py"


class Runtime:
    """One of them on a host; `mounts` as in a bundle's config.json."""

    def __init__(self, host, name, folder, mounts=()):
        self._host = host
        self._name = name
        self._bundle = folder
        self._mounts = list(mounts)
        self.container = "container:" + ID

    def call(self, *words):
        """What it says; it finds this host as its own system."""
        return self._host.run_in(CONTAINER_HOST, "inside", "--root", os.path.realpath(os.path.join(RIG, "rootfs")),
                                 "--", self._name, *words)

    def start(self, root, *words, netns=None, tmpfs=None):
        """As ContainerHost.start_container()."""
        os.makedirs(self._bundle)
        self.call("spec", "-b", self._bundle)
        path = os.path.join(self._bundle, "config.json")
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        config["process"].update(terminal=False, args=list(words), noNewPrivileges=True)
        config["process"]["capabilities"] = {name: list(_GIVEN) for name in ("bounding", "effective", "permitted")}
        config["root"] = {"path": root, "readonly": False}
        config["hostname"] = ID
        config["mounts"] += self._mounts
        if tmpfs:
            config["mounts"].append({"destination": tmpfs, "type": "tmpfs", "source": "tmpfs"})
        linux = config["linux"]
        linux["cgroupsPath"] = os.path.join(self._host.guests_group, ID)
        linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW",
                            "syscalls": [{"names": list(_REFUSED), "action": "SCMP_ACT_ERRNO"}]}
        for space in linux["namespaces"]:
            if space["type"] == "network" and netns:
                space["path"] = netns
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)
        self.call("run", "-d", "-b", self._bundle, ID)
        return self.state()["pid"]

    def state(self):
        return json.loads(self.call("state", ID))

    def delete(self):
        self.call("delete", "-f", ID)
