"""Which records may be deleted: the rules one by one, and random fleets against an oracle of their world."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, seed, settings

from runnerctl.cli.prune_evidence import host_words
from runnerctl.core.ghosts import Evidence, HostWord, RunnerRecord, judge
from tests.ghost_worlds import World, worlds, wrong_deletions

ORG = "https://github.com/acme"
GHOST = RunnerRecord(ORG, 7, "gpu-1-old", "offline", False, ephemeral=False)
HOST = HostWord("gpu-1", frozenset({"main"}), {"main": 3})


def _evidence(*hosts: HostWord, **fields: frozenset[str]) -> Evidence:
    return Evidence(hosts={word.host: word for word in hosts or (HOST,)}, **fields)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({}, "retired-slot"),
        ({"name": "GPU-1-OLD"}, "retired-slot"),
        ({"ephemeral": True}, "retired-slot"),
        ({"ephemeral": None}, "retired-slot"),
        ({"name": "gpu-1-main"}, "duplicate"),
        ({"name": "gpu-1-main", "ephemeral": True}, "ephemeral"),
        ({"status": "online"}, "online"),
        ({"busy": True}, "busy"),
        ({"status": "online", "busy": True}, "online"),
        ({"busy": None}, "unknown-state"),
        ({"status": "active"}, "unknown-state"),
        ({"id": 3}, "held"),
        ({"name": "gpu-2-old"}, "foreign"),
        ({"name": "gpu-1"}, "foreign"),
        ({"name": "gpu-1-"}, "foreign"),
        ({"name": "gpu-1-Old_2"}, "foreign"),
        ({"name": "xgpu-1-old"}, "foreign"),
        ({"name": "gpu-1-rack-old"}, "ambiguous"),
        ({"name": "gpu-1" + "-" * 1_000_000}, "foreign"),  # takes no time either
        ({"name": "gpu-1-boo\u212a"}, "foreign"),  # the Kelvin sign is k in lower case
    ],
)
def test_a_record(change: dict[str, object], rule: str) -> None:
    """One fact at a time, against a host that was asked."""
    verdict = judge(msgspec.structs.replace(GHOST, **change), _evidence())
    assert (verdict.rule, verdict.delete) == (
        rule,
        rule in {"retired-slot", "duplicate", "left-behind", "removed-host"},
    )
    assert verdict.reason


@pytest.mark.parametrize(
    ("evidence", "name", "rule"),
    [
        (_evidence(HostWord("gpu-1", frozenset({"main"}))), "gpu-1-main", "left-behind"),
        (_evidence(HostWord("gpu-1", doubt="did not answer")), "gpu-1-old", "unproven"),
        (_evidence(HostWord("gpu-1", None)), "gpu-1-old", "unproven"),
        (_evidence(HostWord("gpu-1", registering=frozenset({"old"}))), "gpu-1-old", "unproven"),
        (_evidence(others=frozenset({"web"})), "web-old", "unproven"),
        (_evidence(HOST, HostWord("gpu", doubt="did not answer")), "gpu-1-old", "unproven"),
        (_evidence(HOST, HostWord("gpu", frozenset({"1-old"}))), "gpu-1-old", "ambiguous"),
        (
            _evidence(HOST, HostWord("gpu", frozenset({"1-old"})), vouched=frozenset({"gpu-1-old"})),
            "gpu-1-old",
            "left-behind",
        ),
        (_evidence(HOST, HostWord("x", held={"/srv/runner": 7})), "gpu-1-old", "held"),
        (_evidence(HOST, HostWord("x", adopted=frozenset({"gpu-1-old"}))), "gpu-1-old", "ambiguous"),
        (_evidence(HostWord("gpu"), HostWord("gpu-1")), "gpu-1", "ambiguous"),
        (_evidence(HostWord("gpu"), others=frozenset({"gpu-1"})), "gpu-1", "ambiguous"),
        (_evidence(HostWord("gpu"), HOST, vouched=frozenset({"gpu-1"})), "gpu-1", "retired-slot"),
        (_evidence(HostWord("gpu"), removed=frozenset({"gpu-1"})), "gpu-1", "retired-slot"),
        (Evidence(removed=frozenset({"gpu-1"})), "gpu-1-old", "removed-host"),
        (Evidence(removed=frozenset({"gpu"})), "gpu-1-old", "ambiguous"),
        (
            Evidence(removed=frozenset({"gpu"}), vouched=frozenset({"GPU-1-old"})),
            "gpu-1-old",
            "removed-host",
        ),
        (Evidence(vouched=frozenset({"gpu-1-old"})), "gpu-1-old", "foreign"),
        (
            _evidence(HostWord("gpu-1", doubt="did not answer"), removed=frozenset({"gpu"})),
            "gpu-1-old",
            "unproven",
        ),
    ],
)
def test_what_the_hosts_say(evidence: Evidence, name: str, rule: str) -> None:
    """A host that cannot be asked, or that is in doubt, keeps every record that could be its own."""
    assert judge(msgspec.structs.replace(GHOST, name=name), evidence).rule == rule


def test_an_adopted_runners_name_is_known_though_its_host_is_silent() -> None:
    """Another host's name may begin like it: that host alone cannot speak for it."""
    wanted = {"gpu-1": frozenset({"main"}), "gpu-2": frozenset({"main"})}
    told: dict[str, dict[str, list[str]]] = {"gpu-1": {"found": [], "registering": [], "problems": []}}
    words = host_words(wanted, told, adopted={"gpu-2": frozenset({"gpu-1-old"})})
    assert judge(GHOST, Evidence(hosts=words)).delete is False
    assert judge(GHOST, Evidence(hosts=host_words(wanted, told))).delete is True


@seed(20260101)
@settings(max_examples=150, deadline=None, database=None)
@given(worlds())
@pytest.mark.exhaustive
def test_random_fleets_lose_nothing(world: World) -> None:
    """The oracle knows which machine truly stands behind each record; the rules see only what hosts say."""
    assert wrong_deletions(world) == []
