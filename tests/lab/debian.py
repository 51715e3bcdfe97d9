"""Debian packages without installing them: apt-get with lists, state and cache of its own.

The mirror is the one that this machine's apt uses; MIGRATE_LAB_MIRROR names another.
"""

import os
import re
import subprocess

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Seconds for all of one apt-get's work; some 90 MB are fetched in all.
_PATIENCE_S = 600


class Unavailable(Exception):
    """What is needed cannot be had here; says what to do."""


def mirror():
    """Where this machine's apt finds Debian itself."""
    given = os.environ.get("MIGRATE_LAB_MIRROR")
    if given:
        return given
    release = _os_release()
    words = ["apt-get", "indextargets", "--no-release-info", "--format",
             "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    try:
        targets = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"this machine's apt sources cannot be read ({error}); the lab is made "
                          "of Debian's packages: run this on Debian") from None
    for line in targets.splitlines():
        uri, suite, component = line.split()
        if release.get("ID") == "debian" and component == "main" and \
                suite == release.get("VERSION_CODENAME"):
            return uri
    raise Unavailable("none of this machine's apt sources is a mirror of Debian; name one with "
                      "MIGRATE_LAB_MIRROR=URI")


def _os_release():
    with open("/etc/os-release", encoding="utf-8") as file:
        lines = (line.rstrip("\n").split("=", 1) for line in file if "=" in line)
        return {name: value.strip("\"'") for name, value in lines}


class Apt:
    """apt-get for `suites` of a mirror, as if nothing were installed: what it fetches is complete."""

    def __init__(self, folder, uri, suites):
        self._uri = uri
        self._suites = suites
        self.archives = os.path.join(folder, "archives")
        for name in ("lists/partial", "archives/partial"):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        sources = os.path.join(folder, "sources.list")
        with open(sources, "w", encoding="utf-8") as file:
            for suite in suites:
                file.write(f"deb [arch=amd64 signed-by={_KEYRING}] {uri} {suite} main\n")
        status = os.path.join(folder, "status")
        open(status, "w", encoding="utf-8").close()
        options = {
            "Dir::State": folder, "Dir::State::Lists": os.path.join(folder, "lists"),
            "Dir::State::status": status, "Dir::Cache": folder,
            "Dir::Cache::archives": self.archives,
            "Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null", "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": "amd64", "APT::Architectures": "amd64",
            "APT::Default-Release": suites[-1], "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root", "Acquire::Languages": "none", "Acquire::Retries": "2",
            "Acquire::http::Timeout": "20", "Acquire::https::Timeout": "20",
        }
        self._options = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def _run(self, *words, cwd=None):
        try:
            run = subprocess.run(["apt-get", "-q", *self._options, *words], cwd=cwd, text=True,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, timeout=_PATIENCE_S)
        except OSError as error:
            raise Unavailable(f"apt-get does not run ({error}); the lab needs Debian's apt") from None
        except subprocess.TimeoutExpired:
            raise Unavailable(f"apt-get {words[0]} took more than {_PATIENCE_S} s; look at the "
                              f"connection to {self._uri}") from None
        if run.returncode != 0:
            faults = [line for line in run.stdout.splitlines() if line.startswith(("E:", "Err:", "W:"))]
            raise Unavailable(
                f"apt-get {words[0]} failed for {'+'.join(self._suites)} of {self._uri}: "
                f"{'; '.join(faults[-4:]) or run.stdout[-400:]}; check the network, or name another "
                "mirror with MIGRATE_LAB_MIRROR=URI")
        return run.stdout

    def update(self):
        self._run("update", "-o", "APT::Update::Error-Mode=any")

    def plan(self, *packages):
        """The packages that these need, themselves included: {name: version}."""
        plan = {}
        for line in self._run("install", "--simulate", "-y", *packages).splitlines():
            match = re.match(r"Inst (\S+?)(?::amd64)? \((\S+)", line)
            if match:
                plan[match[1]] = match[2]
        return plan

    def fetch(self, names):
        """Their archives, into self.archives; no more than the names."""
        self._run("download", *names, cwd=self.archives)
