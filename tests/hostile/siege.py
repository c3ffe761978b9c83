"""Carries a hostile job through the real path, and judges it from outside the slot."""

from __future__ import annotations

import base64
import functools
import io
import json
import secrets
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.hostile import tricks
from tests.hostile.outside import Outside
from tests.system.site import Site

__all__ = ["Siege", "Verdict", "program"]

MARK = "@@hostile "
RUN = 'printf %s "$HOSTILE_PROGRAM" | base64 -d > job.pyz; exec python3 job.pyz '
MIB = 1024 * 1024
MEMORY_MIB, TASKS = 384, 300
# Not those of kind agent: a runner's own key, which is within its job's reach (process.listener-memory).
_SECRETS = ("classic", "fine-grained", "app-token", "installation", "registration", "remove", "setup", "jit")
_LEFT = {
    "-new-session": "left.new-session",
    "-ignores": "left.ignores-signals",
    "-respawn": "left.respawning",
    "Runner.Worker": "left.named-like-a-worker",
    "-holds-gpu": "left.holds-gpu",
    "job.pyz": "left.race",
}


class Verdict(NamedTuple):
    """What became of an attempt: ``stopped``, ``reached``, ``broken`` (it could not be tried)."""

    id: str
    outcome: str
    detail: str


@functools.cache
def program() -> str:
    """The job's program as a zip archive that Python runs, in base64."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((Path(__file__).parent / "job").glob("*.py")):
            archive.write(path, f"job/{path.name}")
        archive.writestr(
            "__main__.py", "import runpy\nrunpy.run_module('job', run_name='__main__', alter_sys=True)\n"
        )
    return base64.b64encode(packed.getvalue()).decode()


@dataclass
class Siege:
    """One slot with a hostile job, one neighbour that must not notice."""

    site: Site
    slot: str
    mode: str = "persistent"
    other: str = "b"
    own_devices: tuple[str, ...] = ()
    other_devices: tuple[str, ...] = ()
    disk_bytes: int = 0
    mark: str = field(default_factory=lambda: f"HOSTILE_LEFT_{secrets.token_hex(6)}")
    outside: Outside = field(init=False)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.outside = Outside(self.site, self.slot, self.mode)
        self.forgery = f"forged-{secrets.token_hex(6)}"
        self.abstract = f"neighbour-{secrets.token_hex(6)}"
        self.canary = f"canary-{secrets.token_hex(12)}"

    def run(self) -> list[Verdict]:
        """The whole siege: before, the job of the neighbour, the attack, what it leaves, the next job."""
        out = self.outside
        out.plant(self.canary)
        early = self._job(self.slot, "echo $MARKER", env={"MARKER": f"log-{self.canary}"})
        self._finish("early", early)
        out.wait_listening()
        neighbour = self._start_neighbour()
        before = out.fingerprint()
        attack = self._start("attack", self.slot, "attack leave wait")
        self._look_on(attack)
        self._release(self.slot)
        self._finish("attack", attack)
        out.wait_listening()
        self._judge_aftermath(before)
        self._release(self.other)
        self._finish("neighbour", neighbour)
        look = self._start("look", self.slot, "look")
        self._finish("look", look)
        self._tricks()
        self._read("attack", self.logs["attack"])
        self._read("look", self.logs["look"], only="left.")
        self._close()
        return sorted(self.verdicts.values())

    def _tricks(self) -> None:
        """Jobs against the hooks and against whoever reads names; the host is as it was, once more."""
        label = f"slot-{self.slot}"
        self._fake_shell()
        for identity, problem in (
            *tricks.hooks(self.site, self.outside, label),
            *tricks.names(self.site, self.outside, label),
        ):
            self.verdicts[identity] = Verdict(
                identity, "reached" if problem else "stopped", problem or "as it should"
            )

    def _fake_shell(self) -> None:
        """A step that puts its own bash before the completed hook, and leaves a process and a file."""
        mark = f"{self.mark}-shell"
        lines = (
            "mkdir -p b; printf '#!/bin/sh\\nexit 0\\n' >b/bash; chmod +x b/bash; echo $PWD/b >>$GITHUB_PATH",
            f"echo {mark} >~/canary",
            f"env -u RUNNER_TRACKING_ID setsid sh -c 'sleep 300; true' {mark} >/dev/null 2>&1 &",
        )
        self._finish("shell", self._job(self.slot, "\n".join(lines), env={}, name="shell"))
        self.outside.wait_listening()
        left = [*self.outside.processes(), *self.outside.files_left(mark)]
        self.verdicts["hook.path"] = Verdict(
            "hook.path", "reached" if left else "stopped", "; ".join(left)[:300]
        )

    # -- jobs

    def _config(self) -> dict[str, Any]:
        out = self.outside
        return {
            "mode": self.mode,
            "root": f"/var/lib/gha-runner/{self.slot}",
            "other_slot": self.other,
            "other_root": f"/var/lib/gha-runner/{self.other}",
            "other_unit": self.outside.unit_of(self.other),
            "other_uid": out.uid(self.other),
            "other_gid": out.gid(self.other),
            "other_pids": [*out.pids(self.other), *out.guard_pids()],
            "listener_pid": out.listener(),
            "own_devices": list(self.own_devices),
            "other_devices": list(self.other_devices),
            "open_sockets": ["/run/runnerctl/guard.sock"],
            "guard_socket": "/run/runnerctl/guard.sock",
            "forgery": self.forgery,
            "abstract": self.abstract,
            "loopback_port": 22,
            "left_mark": self.mark,
            "log_canary": f"log-{self.canary}",
            "tasks_bound": 2 * TASKS,
            "memory_bound": 2 * MEMORY_MIB * MIB,
            "cpus": 1,
            "disk_bound": self.disk_bytes * 5 // 4,
            "inode_bound": 80_000,  # a disk of 1 GiB has 65,536
        }

    def _start(self, name: str, slot: str, words: str) -> int:
        env = {"HOSTILE_PROGRAM": program(), "HOSTILE_CONFIG": json.dumps(self._config())}
        return self._job(slot, RUN + words, env=env, name=name)

    def _start_neighbour(self) -> int:
        job = self._job(
            self.other,
            RUN + "neighbour",
            env={
                "HOSTILE_PROGRAM": program(),
                "HOSTILE_CONFIG": json.dumps({"abstract": self.abstract}),
                "NEIGHBOUR_SECRET": self.canary,
            },
            name="neighbour",
        )
        self._wait_for_mark(job)
        return job

    def _job(self, slot: str, run: str, *, env: dict[str, str], name: str = "job", **fields: Any) -> int:
        step = {"name": name, "run": run, "env": env}
        return self.site.github.add_job(
            labels=["self-hosted", f"slot-{slot}"],
            name=name,
            steps=[step],
            repository="acme/widgets",
            **fields,
        )

    def _finish(self, name: str, job: int) -> None:
        self.results[name], self.logs[name] = self.site.result(job, seconds=180)

    def _wait_for_mark(self, job: int, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while f"{MARK}waiting" not in (log := self.site.github.job_log(job)):
            running = self.site.github.job(job)["status"] != "completed"
            assert running and time.monotonic() < until, log[-2000:]
            time.sleep(0.1)

    def _release(self, slot: str) -> None:
        self.site.shell(f"touch /var/lib/gha-runner/{slot}/_work/widgets/widgets/release")

    # -- judgement

    def _look_on(self, job: int) -> None:
        """While the job holds still: no secret within its reach, and everybody else lives."""
        self._wait_for_mark(job)
        out = self.outside
        known = [self.site.world.token, *self.site.github.secrets(*_SECRETS)]
        found = out.secrets_in_reach([item for item in known if not out.spent(item)])
        self._outside("secret.in-reach", found)
        self._outside("process.kill-others", out.dead(self._pids_before()))
        self._outside("guard.flood", out.guard_troubles())
        self._outside("limit.fork-bomb", out.cannot_fork())

    def _pids_before(self) -> list[int]:
        return [*self.outside.pids(self.other), *self.outside.guard_pids(), 1]

    def _judge_aftermath(self, before: dict[str, str]) -> None:
        out = self.outside
        for line in out.processes():
            named = next((identity for word, identity in _LEFT.items() if word in line), "left.double-fork")
            self._outside(named, [line])
        changed = out.changes(before)
        for prefix, problems in changed.items():
            self._outside(prefix, problems)
        self._outside("left.links", out.victims_changed())
        self._outside("left.home", out.files_left(self.mark))
        self._outside("journal.forge", out.forged(self.forgery))
        self._outside("left.keyring", out.keys_left())

    def _outside(self, identity: str, problems: list[str]) -> None:
        if problems:
            self.verdicts[identity] = Verdict(identity, "reached", "; ".join(problems)[:1500])

    def _read(self, phase: str, log: str, *, only: str = "") -> None:
        """The attempts' own results; what was seen from outside stands."""
        for line in log.splitlines():
            _, found, text = line.partition(MARK)
            if not found or not text.startswith("{"):
                continue
            said = json.loads(text)
            identity = said["id"]
            if not identity.startswith(only) or (phase == "attack" and identity.startswith("left.")):
                continue
            known = self.verdicts.get(identity)
            if known is None or known.outcome == "stopped":
                self.verdicts[identity] = Verdict(identity, said["outcome"], said["detail"])

    def _close(self) -> None:
        """A canary in a log is a success, whatever the job says; so is a neighbour that failed."""
        for name in ("attack", "look"):
            if self.canary in self.logs[name].replace(f"log-{self.canary}", ""):
                self.verdicts["file.neighbour"] = Verdict(
                    "file.neighbour", "reached", f"the canary is in {name}"
                )
        if self.results["neighbour"] != "success":
            self.verdicts["process.kill-others"] = Verdict(
                "process.kill-others", "reached", "the neighbour's job failed"
            )
        self.verdicts.setdefault("secret.in-reach", Verdict("secret.in-reach", "stopped", "none found"))
