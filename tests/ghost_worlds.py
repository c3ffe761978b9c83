"""Random fleets with the truth about them: which machine stands behind each record, if any.

The oracle is written apart from the rules: it never reads names. A deletion is wrong when a machine, ours or
not, holds the record or is about to, or when GitHub did not say that the record is offline and idle, or when
it was never a record of ours.

One thing is taken for granted, and the rules say so: other people in the scope do not give names of the form
`<a host of ours>-<a slot without hyphen>`. Their hosts may have names that begin like ours, and slots with
hyphens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import strategies

from runnerctl.core.ghosts import Evidence, HostWord, RunnerRecord, judge

__all__ = [
    "Machine",
    "Truth",
    "World",
    "found_ghosts",
    "random_world",
    "world_of",
    "worlds",
    "wrong_deletions",
]

SCOPES = ("https://github.com/acme", "https://github.com/acme/widgets")
# Names that begin with one another, so that one name can be read in several ways.
HOSTS = ("gpu", "gpu-1", "gpu-1-a", "gpu-2", "GPU-3", "a", "a-b", "rack", "rack-gpu", "gpu-main")
SLOTS = ("main", "a", "b", "1", "1-a", "1-main", "main-2", "old", "a-main")
STRANGERS = ("db", "gpu_1-main", "xgpu-1-main", "gpu-1-main_old", "gpu", "gpu-", "gpu-1-ümlaut", "ci.acme")


@dataclass
class Machine:
    """A machine. ``role``: ours, removed (gone for good, and the operator says so), other or foreign."""

    name: str
    role: str
    wanted: set[str] = field(default_factory=set)
    held: dict[str, int] = field(default_factory=dict)
    registering: dict[str, int] = field(default_factory=dict)
    reachable: bool = True
    sound: bool = True  # its variables can be used
    readable: bool = True  # every .runner on it can be read


@dataclass(frozen=True)
class Truth:
    """A record and what is behind it."""

    record: RunnerRecord
    owner: str | None  # the machine that holds or is registering it; None: a ghost
    ours: bool


@dataclass
class World:
    """Machines, records, and what the operator vouches for."""

    machines: list[Machine]
    truths: list[Truth]
    vouched: frozenset[str] = frozenset()

    def evidence(self) -> Evidence:
        """What a run of `prune` would learn."""
        words = {}
        for machine in self.machines:
            if machine.role == "ours":
                words[machine.name] = _word(machine)
        return Evidence(
            hosts=words,
            others=frozenset(each.name for each in self.machines if each.role == "other"),
            removed=frozenset(each.name for each in self.machines if each.role == "removed"),
            vouched=self.vouched,
        )


def _word(machine: Machine) -> HostWord:
    wanted = frozenset(machine.wanted) if machine.sound else None
    if not machine.reachable or not machine.readable:
        return HostWord(machine.name, wanted, doubt="did not answer")
    return HostWord(machine.name, wanted, dict(machine.held), frozenset(machine.registering))


def wrong_deletions(world: World) -> list[str]:
    """The oracle: every deletion that would hurt somebody, in words."""
    evidence = world.evidence()
    return [
        f"{truth.record} is deleted, and {hurt}"
        for truth in world.truths
        if judge(truth.record, evidence).delete and (hurt := _hurt(truth))
    ]


def _hurt(truth: Truth) -> str:
    if truth.owner is not None:
        return f"{truth.owner} is behind it"
    if not truth.ours:
        return "it was never ours"
    if truth.record.status != "offline" or truth.record.busy is not False:
        return "GitHub did not say that it is offline and idle"
    return ""


def found_ghosts(world: World) -> tuple[int, int]:
    """How many true ghosts of ours are offline and idle, and how many of them the rules delete."""
    evidence = world.evidence()
    ghosts = [truth for truth in world.truths if truth.owner is None and not _hurt(truth)]
    return len(ghosts), sum(judge(truth.record, evidence).delete for truth in ghosts)


def worlds() -> strategies.SearchStrategy[World]:
    """Worlds for a property test."""
    return strategies.randoms(use_true_random=False).map(random_world)


def world_of(number: int) -> World:
    """The world of a seed: always the same one."""
    return random_world(random.Random(number))  # noqa: S311 (repeatable)


def random_world(chance: random.Random) -> World:
    """A fleet of up to six machines in one or two scopes, with whatever life left behind in them."""
    names = chance.sample(HOSTS, chance.randint(1, 6))
    roles = ["ours", *(chance.choice(["ours", "ours", "removed", "other", "foreign"]) for _ in names[1:])]
    machines = [_machine(chance, name, role) for name, role in zip(names, roles, strict=True)]
    ids = iter(range(1, 10_000))
    truths: list[Truth] = []
    for machine in machines:
        truths += _alive(chance, machine, ids)
        if machine.role in ("ours", "removed"):
            truths += _left_over(chance, machine, ids)
    ours = [each.name.lower() for each in machines if each.role in ("ours", "removed")]
    truths += [
        Truth(_record(chance, next(ids), name), "a stranger" if chance.random() < 0.5 else None, ours=False)
        for name in chance.sample(STRANGERS, chance.randint(0, 3))
    ]
    truths = [truth for truth in truths if truth.ours or not _taken(truth.record.name, ours)]
    borne = {truth.record.name.lower() for truth in truths if not truth.ours}
    own = [truth.record.name for truth in truths if truth.ours and truth.record.name.lower() not in borne]
    return World(machines, truths, frozenset(chance.sample(own, min(len(own), chance.randint(0, 2)))))


def _taken(name: str, ours: list[str]) -> bool:
    """Whether a stranger bears a name that only we are taken to give (see this module)."""
    return any(name.lower().startswith(f"{host}-") and name[len(host) + 1 :].isalnum() for host in ours)


def _machine(chance: random.Random, name: str, role: str) -> Machine:
    wanted = set(chance.sample(SLOTS, chance.randint(0, 3)))
    return Machine(
        name,
        role,
        wanted=wanted,
        reachable=chance.random() < 0.8,
        sound=chance.random() < 0.9,
        readable=chance.random() < 0.9,
    )


def _alive(chance: random.Random, machine: Machine, ids: Iterator[int]) -> list[Truth]:
    """Runners that are there, in slots of the spec and in others, online or switched off."""
    if machine.role == "removed":
        return []
    slots = [slot for slot in sorted(machine.wanted) if chance.random() < 0.8]
    slots += [slot for slot in chance.sample(SLOTS, 2) if slot not in slots and chance.random() < 0.3]
    found = []
    for slot in slots:
        number = next(ids)
        half_way = chance.random() < 0.15
        (machine.registering if half_way else machine.held)[slot] = number
        record = _record(chance, number, f"{machine.name}-{slot}", dead=half_way)
        found.append(Truth(record, machine.name, ours=machine.role == "ours"))
    return found


def _left_over(chance: random.Random, machine: Machine, ids: Iterator[int]) -> list[Truth]:
    """Ghosts; some of them look alive, since GitHub notices late."""
    slots = [slot for slot in SLOTS if chance.random() < 0.3]
    return [Truth(_record(chance, next(ids), f"{machine.name}-{slot}"), None, ours=True) for slot in slots]


def _record(chance: random.Random, number: int, name: str, *, dead: bool = False) -> RunnerRecord:
    status = "offline" if dead else chance.choice(["offline", "offline", "offline", "online", "strange"])
    return RunnerRecord(
        chance.choice(SCOPES),
        number,
        name.upper() if chance.random() < 0.1 else name,
        status,
        chance.choice([False, False, False, True, None]),
        ephemeral=chance.choice([False, False, True, None]),
    )
