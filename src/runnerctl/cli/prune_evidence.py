"""What is known of the hosts before a record may be deleted: inventory's word, and each host's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runnerctl.cli.context import Context
from runnerctl.core.ghosts import Evidence, HostWord
from runnerctl.core.scope import Scope, parse_scope
from runnerctl.errors import ConfigError, UnavailableError, UsageError

if TYPE_CHECKING:
    from runnerctl.cli.inventory import Resolved
    from runnerctl.cli.prune import Asked

__all__ = ["Gathering", "gather", "host_words"]

PLAYBOOK = "registrations"
SECONDS = (
    900.0  # every host is asked at once or in turns of Ansible's forks; one that is off costs its timeout
)


@dataclass(frozen=True)
class Gathering:
    """The scopes to list, each with the API's base where inventory names one, and how to ask the hosts."""

    scopes: list[tuple[Scope, str | None]]
    ask_hosts: Callable[[], Evidence]


@dataclass
class _Known:
    """What the inventory says."""

    wanted: dict[str, frozenset[str] | None] = field(default_factory=dict)
    adopted: dict[str, frozenset[str]] = field(default_factory=dict)
    scopes: dict[str, tuple[Scope, str | None]] = field(default_factory=dict)


def gather(context: Context, asked: Asked) -> Gathering:
    """Read the inventory; no host is contacted yet. Raises RunnerctlError."""
    from runnerctl.cli.remote import scope_of
    from runnerctl.cli.select import scope_needed

    known = _read_inventory(context, asked.inventory) if asked.inventory else _Known()
    mistaken = {name.lower() for name in asked.removed} & {name.lower() for name in known.wanted}
    if mistaken:
        raise UsageError(
            "is in the inventory: --host is for hosts that are gone",
            where=f"--host {sorted(mistaken)[0]}",
            remedy="leave it out, or take the host out of the inventory first",
        )
    scope = scope_needed(context, asked.url) if not known.scopes else scope_of(context, asked.url)
    if scope is not None:
        known.scopes.setdefault(scope.url.lower(), (scope, None))
    return Gathering(list(known.scopes.values()), lambda: _evidence(context, asked, known))


def _read_inventory(context: Context, inventory: str) -> _Known:
    """The whole inventory, whatever --limit says: who could own a name must be known."""
    from runnerctl.cli.inventory import resolve

    known = _Known()
    for host in resolve(context, inventory):
        known.wanted[host.host] = _slots(host, known)
    if not known.scopes:
        raise ConfigError(
            "no host of the inventory has variables that can be used",
            where=inventory,
            remedy=f"see `runnerctl spec validate -i {inventory}`",
        )
    return known


def _slots(host: Resolved, known: _Known) -> frozenset[str] | None:
    import msgspec

    from runnerctl.core.slot_layout_foreseen import foreseen
    from runnerctl.core.spec import HostSpec

    if host.spec is None or host.problems:
        return None
    spec = foreseen(msgspec.convert(host.spec, HostSpec))
    for slot in spec.github_runner.slots:
        scope = parse_scope(spec.slot_url(slot))
        known.scopes.setdefault(scope.url.lower(), (scope, spec.github_runner.api_url))
    slots = spec.github_runner.slots
    known.adopted[host.host] = frozenset(slot.runner_name.lower() for slot in slots if slot.runner_name)
    return frozenset(slot.name for slot in slots)


def _evidence(context: Context, asked: Asked, known: _Known) -> Evidence:
    from runnerctl.cli.playbook import play

    removed, vouched = frozenset(asked.removed), frozenset(asked.vouched)
    if asked.inventory is None:
        return Evidence(removed=removed, vouched=vouched)
    played = play(
        context,
        PLAYBOOK,
        inventory=asked.inventory,
        limit=asked.limit,
        output_variable="registrations_output_dir",
        seconds=SECONDS,
    )
    if played.status and not played.answers:
        raise UnavailableError(
            f"ansible-playbook runnerctl.gpu_runner.{PLAYBOOK} failed: {played.reason}",
            remedy="run it by hand to see all of its output",
        )
    inventory = {
        str(name) for answer in played.answers.values() for name in _list(answer.get("inventory"))
    } - {*known.wanted, "localhost"}
    if mistaken := {name.lower() for name in removed} & {name.lower() for name in inventory}:
        raise UsageError("is in the inventory", where=f"--host {sorted(mistaken)[0]}", remedy="leave it out")
    words = host_words(known.wanted, played.answers, limit=asked.limit, adopted=known.adopted)
    return Evidence(hosts=words, others=frozenset(inventory), removed=removed, vouched=vouched)


def host_words(
    wanted: Mapping[str, frozenset[str] | None],
    answers: Mapping[str, Mapping[str, Any]],
    *,
    limit: str | None = None,
    adopted: Mapping[str, frozenset[str]] | None = None,
) -> dict[str, HostWord]:
    """Each host's word: what inventory wants of it, and its answer. Without a whole one it is doubted."""
    import msgspec

    silent = f"was not asked (--limit {limit}) or did not answer" if limit else "did not answer"
    words = {host: HostWord(host, slots, doubt=silent) for host, slots in wanted.items()}
    for host in words.keys() & answers.keys():
        words[host] = _word(host, wanted[host], answers[host])
    for host, names in (adopted or {}).items():
        words[host] = msgspec.structs.replace(words[host], adopted=names)
    return words


def _word(host: str, wanted: frozenset[str] | None, answer: Mapping[str, Any]) -> HostWord:
    try:
        problems = [str(problem) for problem in answer["problems"]]
        held = {str(entry["place"]): int(entry["agent_id"]) for entry in answer["found"]}
        registering = frozenset(str(slot) for slot in answer["registering"])
    except (KeyError, TypeError, ValueError):
        return HostWord(host, wanted, doubt="gave an answer that cannot be understood")
    return HostWord(host, wanted, held, registering, doubt="; ".join(problems) or None)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
