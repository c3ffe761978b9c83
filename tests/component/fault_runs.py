"""Fleets that register while GitHub has a bad day: random faults, lost answers and kills, then a count."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from runnerctl.core.spec import HostSpec, host_spec
from runnerctl.github.cache import PrivateCache
from runnerctl.play import Play
from runnerctl.reconcile import Fleet
from tests.component.simulated_host import SimulatedHost, attempt
from tests.fakes.github_api import Control, GithubApi

__all__ = ["FAULTS", "Outcome", "World", "run_fleet"]

TOKEN = "ghp_faultmatrix000000000000000000000"
APP_ID = 4711
ROUNDS = 5  # under faults
PATIENCE = 12  # rounds without faults in which a fleet must come to rest
SCOPES = {
    "/repos/acme/widgets": "acme/widgets",
    "/orgs/acme": "acme",
    "/enterprises/acme": "enterprises/acme",
}
CROWDS = (0, 0, 3, 250, 1000)  # other runners of the scope

# The faults of the contract's section 9, by a name of their own: what to tell the stand-in.
FAULTS: Mapping[str, Mapping[str, Any]] = {
    "items shift between pages": {"name": "item_shift", "count": 3},
    "403 with retry-after": {"name": "retry_after"},
    "remaining 0": {"name": "rate_limited"},
    "secondary 403 without header": {"name": "secondary"},
    "429": {"name": "too_many", "retry_after": 0},
    "500 twice": {"name": "server_error", "count": 2},
    "HTML 502": {"name": "bad_gateway_html"},
    "301 of a renamed repository": {
        "name": "rename", "from_": "/repos/acme/widgets", "to": "/repos/acme/gadgets", "count": 2
    },
    "401 of an expired token": {"name": "expired_token"},
    "409 at registration": {"name": "status", "status": 409, "path": "/_runner/agents$", "channel": "runner"},
    "404 of a hidden permission": {"name": "hidden", "count": 2},
    "422 of a read-only label": {"name": "status", "status": 422, "path": "/labels", "method": "PUT"},
    "304 that nobody asked for": {"name": "not_modified", "method": "GET"},
    "no version": {"name": "null_version", "count": 5},
    "no ephemeral": {"name": "missing_ephemeral", "count": 5},
    "Link to a foreign host": {"name": "foreign_link", "count": 2},
    "clock skew": {"name": "clock_skew", "count": 2},
    "slow body": {"name": "slow_body", "seconds": 0.05},
    "answer of a registration lost": {"name": "lost_answer", "path": "/_runner/agents$", "channel": "runner"},
    "answer of the API lost": {"name": "lost_answer"},
    "connection dropped": {"name": "drop"},
    "registration dropped": {"name": "drop", "path": "runner-registration$", "channel": "all"},
}  # fmt: skip


@dataclass
class Outcome:
    """How one run ended. ``ended``: what cut runs short; ``faults``: those that requests met."""

    seed: int
    lost: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    restless: bool = False
    slots: int = 0
    crowd: int = 0
    requests: int = 0
    faults: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    breaches: list[Any] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Nothing lost, nothing twice, at rest, and GitHub's description kept."""
        return not (self.lost or self.duplicates or self.restless or self.breaches)


@dataclass
class World:
    """A stand-in, an App's key, and a place for caches."""

    github: GithubApi
    directory: Path
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    @property
    def key_file(self) -> Path:
        """The App's key as a file."""
        path = self.directory / "app.pem"
        if not path.exists():
            kind = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            path.write_bytes(self.key.private_bytes(serialization.Encoding.PEM, *kind))
            path.chmod(0o600)
        return path

    def credentials(self, control: Control, *, app: bool) -> dict[str, str]:
        """An environment with a token, or with an App."""
        if not app:
            control.add_token(TOKEN)
            return {"GH_TOKEN": TOKEN}
        public = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        rights = {"organization_self_hosted_runners": "write", "administration": "write"}
        rights["enterprise_self_hosted_runners"] = "write"
        kinds = {77: "Organization", 78: "Enterprise"}
        given = [{"id": n, "account": "acme", "type": kinds[n], "permissions": rights} for n in kinds]
        control.add_app(APP_ID, public_key=public.decode(), installations=given)
        return {"RUNNERCTL_APP_ID": str(APP_ID), "RUNNERCTL_APP_KEY_FILE": str(self.key_file)}


def run_fleet(
    world: World,
    seed: int,
    *,
    crowds: Sequence[int] = CROWDS,
    rounds: int = ROUNDS,
    told: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """One random fleet: registers under faults, then converges until it is quiet, and is counted."""
    control = world.github.control
    dice = random.Random(seed)  # noqa: S311 (repeatable)
    control.reset()
    control.settings(rate_limit=100_000)
    scope = dice.choice(sorted(SCOPES))
    outcome = Outcome(seed, crowd=dice.choice(crowds))
    if outcome.crowd:
        control.add_runners(scope, outcome.crowd, labels=["other"], status="online", name="other-{n}")
    environment = world.credentials(control, app=dice.random() < 0.4)
    environment["RUNNERCTL_CACHE_DIR"] = str(world.directory / "cache")
    hosts = _hosts(world, dice, scope)
    outcome.slots = sum(len(host.local()) for host in hosts)
    for number in range(rounds):
        _bad_day(control, dice, scope)
        _mischief(control, dice, hosts)
        _round(world, hosts, environment, key=f"{seed}-{number}", outcome=outcome, told=told)
    control.clear_faults()
    outcome.faults = [request["fault"] for request in control.requests() if request["fault"]]
    for runner in control.runners(scope):
        if runner["busy"] and not runner["name"].startswith("other-"):
            control.change_runner(runner["id"], busy=False)
    for host in hosts:
        host.kill_share = 0.0
    outcome.restless = not any(
        _round(world, hosts, environment, key=f"{seed}-{number}", outcome=outcome, told=told)
        for number in range(rounds, rounds + PATIENCE)
    )
    _count(control, scope, hosts, outcome)
    return outcome


def _hosts(world: World, dice: random.Random, scope: str) -> list[SimulatedHost]:
    """A few hosts; one of them may have ten slots."""
    group = dice.choice([None, "gpus"]) if not scope.startswith("/repos") else None
    if group:
        world.github.control.add_group(scope, group)
    hosts = []
    for number in range(dice.randint(1, 3)):
        slots = [{"name": f"s{index}"} for index in range(dice.choice((1, 2, 3, 6)))]
        given = {"github_runner_url": f"{world.github.url}/{SCOPES[scope]}", "github_runner_slots": slots}
        given["github_runner_labels"] = ["gpu"]
        given |= {"github_runner_group": group} if group else {}
        hosts.append(_host(world, dice, _spec(f"h{number}", given)))
    return hosts


def _spec(name: str, given: Mapping[str, Any]) -> HostSpec:
    spec, problems = host_spec(name, dict(given))
    assert spec is not None, problems
    return spec


def _host(world: World, dice: random.Random, spec: HostSpec) -> SimulatedHost:
    share = dice.choice((0.0, 0.05, 0.15))
    return SimulatedHost(spec, world.github.url, world.github.control, dice, kill_share=share)


def _bad_day(control: Control, dice: random.Random, scope: str) -> None:
    control.clear_faults()
    for name in dice.sample(sorted(FAULTS), dice.randint(1, 5)):
        if name.startswith("301") and not scope.startswith("/repos"):
            continue
        fields = dict(FAULTS[name])
        control.fault(fields.pop("name"), skip=dice.randint(0, 3), **fields)


def _mischief(control: Control, dice: random.Random, hosts: Sequence[SimulatedHost]) -> None:
    """What others do meanwhile: a record is deleted, runs a job, loses its labels; the inventory changes.

    Without GitHub's default labels each runner must register anew: its old record goes first, unless busy.
    """
    for host in hosts:
        if dice.random() < 0.15:
            runner = host.spec.github_runner
            runner = msgspec.structs.replace(runner, no_default_labels=not runner.no_default_labels)
            host.spec = msgspec.structs.replace(host.spec, github_runner=runner)
        for slot in host.local().values():
            if slot.agent_id is None or dice.random() > 0.1:
                continue
            what = dice.choice(("delete", "busy", "idle", "labels"))
            known = {runner["id"] for runner in control.runners()}
            if slot.agent_id not in known:
                continue
            if what == "delete":
                control.delete_runner(slot.agent_id)
            elif what == "labels":
                control.change_runner(slot.agent_id, labels=["wrong"])
            else:
                control.change_runner(slot.agent_id, busy=what == "busy")


def _round(
    world: World,
    hosts: Sequence[SimulatedHost],
    environment: Mapping[str, str],
    *,
    key: str,
    outcome: Outcome,
    told: Callable[[str], None],
) -> bool:
    """Every host once, as one play; True when none had anything to do."""

    def note(text: str) -> None:
        outcome.ended.append(text.split(":", 1)[0])
        told(f"seed {outcome.seed}: {text}")

    quiet = []
    play = Play(key, PrivateCache(world.directory / "cache"), hosts=len(hosts))
    for host in hosts:
        others = [other.spec.host for other in hosts]
        fleet = Fleet(host.spec, environment, others=others, play=play, sleep=lambda _: None)
        quiet.append(attempt(host, fleet, told=note))
        outcome.requests += fleet.calls()["requests"]
    return all(quiet)


def _count(control: Control, scope: str, hosts: Sequence[SimulatedHost], outcome: Outcome) -> None:
    """Every slot has one record, whose id its host knows; nothing else is there but the crowd."""
    records = {runner["id"]: runner["name"] for runner in control.runners(scope)}
    others = {number for number, name in records.items() if name.startswith("other-")}
    known = set()
    for host in hosts:
        for slot in host.spec.github_runner.slots:
            name, agent_id = host.spec.runner_name(slot), host.local()[slot.name].agent_id
            if agent_id is None or records.get(agent_id) != name:
                outcome.lost.append(name)
            else:
                known.add(agent_id)
    outcome.lost += ["another's record"] * (outcome.crowd - len(others))
    outcome.duplicates = sorted(records[number] for number in records.keys() - others - known)
    outcome.breaches = control.violations()
