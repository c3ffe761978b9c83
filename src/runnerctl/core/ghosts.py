"""Ghosts: records at GitHub behind which no runner stands any more, and which of them may be deleted.

The rules are pure: a record and what is known of the hosts in, a verdict in words out. Only offline records
are ever deleted, only those that bear the name ``<host>-<slot>`` of a host of ours, and only when every host
that could own the name was asked and does not hold the record's id. A doubt keeps the record.

A name is all that tells whose record an offline runner has. Two fleets that give the same names in one scope
cannot be told apart; a name that could be read in two ways is kept until the operator gives it in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from runnerctl.core.sections import SLOT_NAME

__all__ = ["Evidence", "HostWord", "Judge", "RunnerRecord", "Verdict", "judge"]


LONGEST_NAME = 300  # far above GitHub's limit: a longer one is nobody's


class RunnerRecord(msgspec.Struct, frozen=True):
    """GitHub's record of a runner. ``scope`` is its URL; None: GitHub did not say."""

    scope: str
    id: int
    name: str
    status: str
    busy: bool | None
    ephemeral: bool | None = None


class HostWord(msgspec.Struct, frozen=True):
    """What inventory and the host itself say.

    ``wanted`` are the slots of the spec, None when its variables have problems; ``held`` the runner ids on
    the host by the place they were found in; ``registering`` the slots whose registration was begun and not
    noted as done. ``adopted`` are the runner names, in lower case, of slots that have another than their own.
    ``doubt`` says why the host's word is missing or cannot be relied on; None: it is complete.
    """

    host: str
    wanted: frozenset[str] | None = frozenset()
    held: Mapping[str, int] = {}
    registering: frozenset[str] = frozenset()
    adopted: frozenset[str] = frozenset()
    doubt: str | None = None


class Evidence(msgspec.Struct, frozen=True):
    """Everything the rules may use. It must be read from the hosts after the records were read from GitHub.

    ``hosts`` are the runner hosts of the inventory; ``others`` its other names; ``removed`` the hosts that
    the operator says are gone; ``vouched`` the runner names that the operator gave in full.
    """

    hosts: Mapping[str, HostWord] = {}
    others: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    vouched: frozenset[str] = frozenset()


class Verdict(msgspec.Struct, frozen=True):
    """Keep or delete one record. ``rule`` is a stable word, ``reason`` the same for people."""

    delete: bool
    rule: str
    reason: str


class _Owner(msgspec.Struct, frozen=True):
    """One way to read a runner's name: as this slot of this host."""

    host: str
    slot: str


def judge(record: RunnerRecord, evidence: Evidence) -> Verdict:
    """Decide about one record. For many records make one `Judge`."""
    return Judge(evidence).judge(record)


class Judge:
    """The rules over one body of evidence."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        names = (*evidence.hosts, *evidence.others, *evidence.removed)
        self._hosts: dict[str, list[str]] = {}  # GitHub compares names without case
        for host in dict.fromkeys(names):
            self._hosts.setdefault(host.lower(), []).append(host)
        self._vouched = {name.lower() for name in evidence.vouched}
        self._held: dict[int, tuple[str, str]] = {}
        self._adopted: dict[str, str] = {}
        for word in evidence.hosts.values():
            self._adopted |= dict.fromkeys(word.adopted, word.host)
            self._held |= {held: (word.host, place) for place, held in word.held.items()}

    def judge(self, record: RunnerRecord) -> Verdict:
        """Decide about one record.

        Kept by rule ``unknown-state``, ``online``, ``busy``, ``foreign``, ``held``, ``unproven``,
        ``ephemeral``, ``ambiguous``; deleted by ``duplicate``, ``left-behind``, ``retired-slot``,
        ``removed-host``.
        """
        if kept := _state(record):
            return kept
        sound = record.name.isascii() and len(record.name) <= LONGEST_NAME
        owners = list(self._owners(record.name.lower())) if sound else []
        if not owners:
            return _keep("foreign", "is not named after a host of this fleet")
        if record.id in self._held:
            host, place = self._held[record.id]
            return _keep("held", f"host {host} holds this id, in {place}")
        if record.name.lower() not in self._vouched and (kept := self._namesake(record.name.lower())):
            return kept
        for owner in owners:
            if doubt := _doubt(owner, self.evidence):
                return _keep("unproven", f"may be slot {owner.slot} of host {owner.host}, which {doubt}")
        owner = next((owner for owner in owners if _claims(owner, self.evidence)), owners[0])
        if "-" in owner.slot and record.name.lower() not in self._vouched:
            return _ambiguous(owner)
        if _claims(owner, self.evidence):
            return _of_a_slot(record, owner, self.evidence.hosts[owner.host])
        return _of_no_slot(record, owner, self.evidence)

    def _namesake(self, lowered: str) -> Verdict | None:
        """A name that a runner has without being named after a slot: an adopted one's, or a host's own.

        GitHub's ``config.sh`` proposes the host's name, so ``gpu-1`` may be a stock runner of host gpu-1.
        """
        if host := self._adopted.get(lowered):
            return _keep("ambiguous", f"has the name of a runner that host {host} adopted")
        for host in self._hosts.get(lowered, ()):
            if host not in self.evidence.removed:
                return _keep("ambiguous", f"has the name of host {host}: it may be a runner of its own")
        return None

    def _owners(self, lowered: str) -> Iterator[_Owner]:
        """Every host that a name could be of, with the slot it would be; the longest name of a host first."""
        at = lowered.rfind("-")
        slots = []
        while at > 0:
            slots.append(at)
            at = lowered.rfind("-", 0, at)
        for at in slots:
            if SLOT_NAME.fullmatch(lowered[at + 1 :]):
                for host in self._hosts.get(lowered[:at], ()):
                    yield _Owner(host, lowered[at + 1 :])


def _keep(rule: str, reason: str) -> Verdict:
    return Verdict(False, rule, reason)


def _state(record: RunnerRecord) -> Verdict | None:
    """What GitHub says of it now; whatever is not plainly offline and idle is kept."""
    if record.status == "online":
        return _keep("online", "is online")
    if record.busy is True:
        return _keep("busy", "runs a job")
    if record.status != "offline" or record.busy is None:
        return _keep("unknown-state", f"GitHub says {record.status!r}, which is neither online nor offline")
    return None


def _claims(owner: _Owner, evidence: Evidence) -> bool:
    word = evidence.hosts.get(owner.host)
    return word is not None and owner.slot in (word.wanted or ())


def _doubt(owner: _Owner, evidence: Evidence) -> str | None:
    """Why nobody can say that this host has no such runner; None when the host said it, or is gone."""
    word = evidence.hosts.get(owner.host)
    if word is None:
        return None if owner.host in evidence.removed else "was not asked: it is no runner host"
    if word.doubt:
        return word.doubt
    if word.wanted is None:
        return "has problems in its variables"
    if owner.slot in word.registering:
        return "is registering it, or was cut off while it did"
    return None


def _of_a_slot(record: RunnerRecord, owner: _Owner, word: HostWord) -> Verdict:
    """The slot exists, and its host was asked: the record is not the one that the slot has."""
    if record.ephemeral:
        return _keep("ephemeral", "may wait for its one job; GitHub removes it after a day offline")
    held = word.held.get(owner.slot)
    if held is not None:
        return Verdict(True, "duplicate", f"slot {owner.slot} of host {word.host} is runner {held} now")
    reason = f"slot {owner.slot} of host {word.host} is not registered: this record was left behind"
    return Verdict(True, "left-behind", reason)


def _ambiguous(owner: _Owner) -> Verdict:
    """A slot with a hyphen could as well be the slot of a host that nobody named."""
    other = f"{owner.host}-{owner.slot.rpartition('-')[0]}"
    return _keep(
        "ambiguous", f"may be of a host {other} that is not ours; --runner with its name vouches for it"
    )


def _of_no_slot(record: RunnerRecord, owner: _Owner, evidence: Evidence) -> Verdict:
    """No spec names it."""
    if owner.host in evidence.hosts:
        return Verdict(True, "retired-slot", f"host {owner.host} has no slot {owner.slot} any more")
    what = "an ephemeral runner" if record.ephemeral else "a runner"
    return Verdict(True, "removed-host", f"was {what} of host {owner.host}, which is gone")
