"""What is seen of a slot from outside, by root: its processes, its files, the host as it was."""

from __future__ import annotations

import base64
import json
import shlex
import time
from typing import Any

from tests.system.site import Site

__all__ = ["Outside"]

_VICTIMS = ("/var/lib/hostile-victim", "/etc/hostile-victim")
# Walks what the job's user can read of what is younger than the host's start, and of every process.
_SEARCH = """
import glob, os, sys
sys.setrecursionlimit(20000)  # the hostile job's directories are deeper than usual
secrets = [line for line in sys.stdin.buffer.read().split(b"\\n") if line]
boot, looked = float(sys.argv[1]) - 120, 0
def look(path):
    global looked
    try:
        with open(path, "rb") as file:
            data = file.read(32 << 20)
    except OSError:
        return
    looked += 1
    if any(secret in data for secret in secrets):
        print(path)
for top, folders, names in os.walk("/"):
    skip = ("/proc", "/sys", "/usr", "/var/cache/apt")  # the last two: packages alone
    folders[:] = [each for each in folders if each != "site-packages" and os.path.join(top, each) not in skip]
    for name in names:
        path = os.path.join(top, name)
        try:
            found = os.lstat(path)
        except OSError:
            continue
        if found.st_mode & 0o170000 == 0o100000 and found.st_ctime >= boot:
            look(path)
for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
    look(path)
print("looked at", looked)
"""
# What a host's own services change by themselves, and what the job and its judge may.
_RESTLESS = (
    "/var/lib/runnerctl/jobs.*",
    "/var/lib/runnerctl/disks/*",
    "/var/lib/runnerctl/slots/*",
    "/var/lib/runnerctl/logs/*",
    "/var/lib/runnerctl/clean*",
    "/var/lib/runnerctl/state*",
    "/var/lib/systemd/*",
    "/var/log/*",
    "/var/cache/*",
    "*/__pycache__*",
)


class Outside:
    """A view of one slot of a site's host."""

    def __init__(self, site: Site, slot: str, mode: str) -> None:
        self.site, self.slot, self.mode = site, slot, mode
        self.unit = self.unit_of(slot)
        self.root = f"/var/lib/gha-runner/{slot}"

    def unit_of(self, slot: str) -> str:
        """The unit of a slot: which of the two is there."""
        found = self.shell(f"systemctl list-units --all --plain --no-legend 'gha-*@{slot}.service'")
        names = [line.split()[0] for line in found.splitlines()]
        return next(name for name in names if name.startswith(("gha-runner@", "gha-ephemeral@")))

    def shell(self, command: str) -> str:
        """Run a command as root; its output, whatever its exit code."""
        return self.site.host.exec("sh", "-c", command, check=False).stdout

    # -- before

    def plant(self, canary: str) -> None:
        """Secrets where no job may read, and directories that a clean-up must not touch."""
        self.shell(
            f"umask 077; echo {canary} | tee /root/canary > /var/lib/runnerctl/canary;"
            "mkdir -p /run/containerd; "
            + "".join(
                f"mkdir -p -m 755 {victim}; echo root > {victim}/file; chmod 644 {victim}/file;"
                for victim in _VICTIMS
            )
        )
        engine = (
            "import os,socket,time\nfor p in ('/run/docker.sock','/run/containerd/containerd.sock'):\n"
            " s=socket.socket(socket.AF_UNIX)\n s.bind(p)\n os.chmod(p,0o660)\n s.listen()\n globals()[p]=s\n"
            "time.sleep(600)\n"
        )
        encoded = base64.b64encode(engine.encode()).decode()
        self.shell(
            "test -S /run/docker.sock || systemd-run -q --unit=hostile-engines"
            f" python3 -c 'import base64; exec(base64.b64decode(\"{encoded}\"))'"
        )

    def wait_listening(self, seconds: float = 40) -> None:
        """Until the slot's runner is online, idle, and its unit runs nothing but the listener."""
        name = f"{self.site.host.name}-{self.slot}"
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = [item for item in self.site.github.runners() if item["name"].startswith(name)]
            ready = [item for item in found if item["status"] == "online" and not item["busy"]]
            if ready and not self.worker():
                return
            time.sleep(0.1)
        raise AssertionError(f"{self.slot} does not listen: {found}\n{self.site.host.journal(lines=40)}")

    # -- processes

    def uid(self, slot: str = "") -> int:
        """The user id of a slot."""
        return int(self.shell(f"id -u gha-{slot or self.slot}").strip() or 0)

    def gid(self, slot: str) -> int:
        """The group id of a slot."""
        return int(self.shell(f"id -g gha-{slot}").strip() or 0)

    def listener(self) -> int:
        """The main process of the slot's unit."""
        return int(self.shell(f"systemctl show -P MainPID {self.unit}").strip() or 0)

    def worker(self) -> int:
        """The worker: a child of the listener with its name."""
        listener = self.listener()
        found = self.shell(f"pgrep -P {listener} -x Runner.Worker").split() if listener else []
        return int(found[0]) if found else 0

    def pids(self, slot: str) -> list[int]:
        """All processes of a slot's user."""
        return [int(pid) for pid in self.shell(f"pgrep -u gha-{slot}").split()]

    def guard_pids(self) -> list[int]:
        """The guard's main process, where there is one."""
        found = self.shell("systemctl show -P MainPID runnerctl-guard.service").split()
        return [int(pid) for pid in found if pid != "0"]

    def processes(self, seconds: float = 15) -> list[str]:
        """Processes of the slot's user besides its listener, when there was time enough to end them."""
        until = time.monotonic() + seconds
        while (found := self._others()) and time.monotonic() < until:
            time.sleep(0.2)
        return found

    def _others(self) -> list[str]:
        lines = self.shell(f"ps -u gha-{self.slot} -o pid=,args=").splitlines()
        return [line.strip() for line in lines if int(line.split()[0]) != self.listener()]

    def dead(self, pids: list[int]) -> list[str]:
        """Those that no longer are."""
        return [f"{pid} is gone" for pid in pids if not self.site.host.exists(f"/proc/{pid}")]

    def cannot_fork(self) -> list[str]:
        """Whether the host can still start programs."""
        return (
            [] if "42" in self.shell("seq 1 3 | wc -l >/dev/null; echo 42") else ["the host starts nothing"]
        )

    def guard_troubles(self) -> list[str]:
        """The guard, where there is one, runs and is no new process."""
        state = self.shell(
            "systemctl is-active runnerctl-guard.service; systemctl show -P NRestarts runnerctl-guard.service"
        )
        words = state.split()
        loaded = self.shell("systemctl show -P LoadState runnerctl-guard.service").strip() == "loaded"
        return [state] if (loaded and words[:1] == ["failed"]) or words[1:] not in (["0"], []) else []

    # -- secrets

    def spent(self, secret: str) -> bool:
        """Whether it is a configuration for one job: what its runner was started from, and has as its own."""
        try:
            files = json.loads(base64.b64decode(secret, validate=True))
        except ValueError:
            return False
        return isinstance(files, dict) and ".runner" in files

    def secrets_in_reach(self, secrets: list[str]) -> list[str]:
        """Files, as the running job's user sees them in its mount namespace, that hold a known secret."""
        worker, uid, gid = self.worker(), self.uid(), self.gid(self.slot)
        assert worker, "no job runs"
        code = base64.b64encode(_SEARCH.encode()).decode()
        patterns = base64.b64encode("\n".join(sorted(set(secrets))).encode()).decode()
        run = f"python3 -IS -c 'import base64; exec(base64.b64decode(\"{code}\"))' $(stat -c %Z /proc/1)"
        user = f"setpriv --reuid {uid} --regid {gid} --clear-groups --no-new-privs"
        found = self.shell(f"echo {patterns} | base64 -d | nsenter -t {worker} -m {user} {run} 2>&1")
        *places, last = found.splitlines() or [""]
        assert last.startswith("looked at"), f"the search did not come to its end: {found[-500:]}"
        return places

    # -- the host as before

    def fingerprint(self) -> dict[str, str]:
        """What no job may change, by the group of attempts that would: a digest or a value each."""
        skip = " ".join(f"-not -path {shlex.quote(path)}" for path in _RESTLESS)
        listing = "-printf '%p %y %m %U %G %s %T@ %l\\n' | sort"
        groups = {
            "file.system": f"find /etc /usr /opt /root /boot -xdev {skip} {listing}",
            "file.host-json": f"find /var/lib/runnerctl -xdev -type f {skip} {listing}",
            "file.runner-settings": f"find {self.root} -maxdepth 1 -name '[.]*' -type f {listing}",
            "file.rename-structure": f"find {self.root} -maxdepth 1 -not -name .trash -printf '%p %m %U\\n'",
            "file.neighbour": "find /var/lib/gha-runner -mindepth 1 -maxdepth 1 -printf '%p %m %U\\n' | sort",
            "file.cron": f"find /var/spool /etc/cron* {listing}; ls /var/lib/systemd/linger 2>/dev/null",
            "kernel.hostname": "hostname; cat /etc/hostname",
            "kernel.settings": "cat /proc/sys/kernel/core_pattern /proc/sys/vm/overcommit_memory",
            "kernel.mounts": "cut -d' ' -f4,5 /proc/1/mountinfo | sort",
            "kernel.own-limits": f"systemctl show {self.unit} -p MemoryMax -p TasksMax -p CPUQuotaPerSecUSec",
            "service.user-manager": "loginctl list-users --no-legend; ls /var/lib/systemd/linger 2>/dev/null",
            "kernel.reboot": "cat /proc/sys/kernel/random/boot_id",
        }
        if self.mode == "ephemeral":  # all of it is made anew
            del groups["file.runner-settings"], groups["file.rename-structure"]
        return {name: self.shell(command) for name, command in groups.items()}

    def changes(self, before: dict[str, str]) -> dict[str, list[str]]:
        """What is not as before, by group; the clock is compared with this machine's."""
        after = self.fingerprint()
        found: dict[str, list[str]] = {}
        for name, text in before.items():
            old, new = set(text.splitlines()), set(after[name].splitlines())
            found[name] = [f"-{line}" for line in sorted(old - new)] + [
                f"+{line}" for line in sorted(new - old)
            ]
        drift = abs(float(self.shell("date +%s").strip()) - time.time())
        found["kernel.clock"] = [f"{drift:.0f} s off"] if drift > 30 else []
        suid = self.shell(f"find / -xdev -uid {self.uid()} -perm /6000 -type f 2>/dev/null")
        found["file.set-user-id"] = suid.split()
        cores = self.shell(
            f"find /var/lib/systemd/coredump /var/crash /core* -user gha-{self.slot} 2>/dev/null"
        )
        found["file.core-dump"] = cores.split()
        return found

    def victims_changed(self) -> list[str]:
        """Root's directories that links in the workspace led to."""
        return [
            f"{victim}: {state}"
            for victim in _VICTIMS
            if (
                state := self.shell(
                    f"stat -c '%a %U' {victim} {victim}/file; cat {victim}/file; ls {victim}"
                ).split()
            )
            != ["755", "root", "644", "root", "root", "file"]
        ]

    def files_left(self, mark: str) -> list[str]:
        """Files of the slot's user outside its directory, and anything that bears the mark within."""
        uid = self.uid()
        inner = f"nsenter -t {self.listener()} -m" if self.listener() else ""
        away = f"-not -path '{self.root}*' -not -path '/var/lib/runnerctl/logs/*' -not -path '/proc/*'"
        out = f"find / -xdev -uid {uid} {away} 2>/dev/null"
        held = f"find /dev/shm /dev/mqueue /run /tmp /var/tmp -uid {uid} -not -path '/run/user*' 2>/dev/null"
        places = f"{self.root}/home {self.root}/_work /tmp /var/tmp /dev/shm"
        marked = f"{inner} grep -rlF {mark} {places} --exclude-dir=_tool"
        text = self.shell(f"{out}; {held}; {marked} 2>/dev/null")
        return [line for line in text.splitlines() if "/systemd-private-" not in line]

    def keys_left(self) -> list[str]:
        """Keys of the slot's user."""
        uid = self.uid()
        return [
            line
            for line in self.shell("cat /proc/keys").splitlines()
            if "hostile" in line and f" {uid} " in line
        ]

    def forged(self, mark: str) -> list[str]:
        """Journal entries with the mark that do not bear the slot's own user, or that put a slot on hold."""
        wrong = []
        for line in self.shell(f"journalctl --no-pager -o json --since=-10min | grep {mark}").splitlines():
            entry: dict[str, Any] = json.loads(line)
            if entry.get("_UID") != str(self.uid()) or entry.get("_TRANSPORT") == "kernel":
                wrong.append(f"_UID={entry.get('_UID')} _TRANSPORT={entry.get('_TRANSPORT')}")
        holds = self.shell("ls /var/lib/runnerctl/hold 2>/dev/null").split()
        return wrong + [f"hold of {name}" for name in holds]
