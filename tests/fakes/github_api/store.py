"""The records with their indexes, their clock and their lock."""

from __future__ import annotations

import secrets
import string
import threading
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from tests.fakes.github_api.state import Group, Label, Runner, Secret, Settings, State, Token
from tests.fakes.github_api.wire import RefusalError

__all__ = ["Store", "scope_of", "timestamp"]

_TOKEN_LETTERS = string.ascii_uppercase + string.digits
DEFAULT_GROUP = 1
LABEL_LENGTH = 256
MAX_NAME = 64
SYSTEM_LABELS = frozenset({"self-hosted", "linux", "windows", "macos", "x64", "arm64", "arm"})


def timestamp(seconds: float) -> str:
    """Epoch seconds as RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def scope_of(path: str) -> str:
    """The key of a scope: its API base in lower case, as GitHub compares names without case."""
    return path.rstrip("/").lower()


class Store:
    """State plus indexes. Callers hold ``lock`` while they read or write more than one record."""

    def __init__(self, file: Path | None = None) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.file = file
        self.state = State()
        if file is not None and file.exists():
            self.state = msgspec.json.decode(file.read_bytes(), type=State)
        self._index()

    def _index(self) -> None:
        self.by_scope: dict[str, dict[int, Runner]] = {}
        self.by_name: dict[tuple[str, str], Runner] = {}
        self.by_secret: dict[str, Runner] = {}
        for runner in self.state.runners.values():
            self._enter(runner)

    def _enter(self, runner: Runner) -> None:
        self.by_scope.setdefault(runner.scope, {})[runner.id] = runner
        self.by_name[runner.scope, runner.name.lower()] = runner
        if runner.secret:
            self.by_secret[runner.secret] = runner

    @property
    def settings(self) -> Settings:
        """The adjustable settings."""
        return self.state.settings

    def now(self) -> float:
        """GitHub's clock: ours plus the skew that a test asked for, in epoch seconds."""
        return time.time() + self.settings.clock_skew_seconds

    def save(self) -> None:
        """Write the state file, whole or not at all."""
        if self.file is None:
            return
        with self.lock:
            data = msgspec.json.encode(self.state)
        partial = self.file.with_name(self.file.name + ".partial")
        partial.write_bytes(data)
        partial.chmod(0o600)
        partial.replace(self.file)

    def reset(self) -> None:
        """Forget everything."""
        with self.lock:
            self.state = State()
            self._index()

    def next_id(self) -> int:
        """A fresh identifier."""
        self.state.counter += 1
        return self.state.counter

    # -- secrets and tokens

    def keep_secret(self, kind: str, value: str) -> str:
        """Remember a secret, so that tests can look for it where it must not be."""
        self.state.secrets.append(Secret(kind, value))
        return value

    def mint(self, kind: str, *, scope: str = "", event: str = "", lifetime: float | None = None) -> Token:
        """A new runner token (registration, remove or setup): 29 capitals and digits, one hour."""
        value = "A" + "".join(secrets.choice(_TOKEN_LETTERS) for _ in range(28))
        expires = self.now() + (self.settings.token_lifetime_seconds if lifetime is None else lifetime)
        token = Token(self.keep_secret(kind, value), kind, scope=scope, event=event, expires_at=expires)
        self.state.tokens[value] = token
        return token

    def live_token(self, value: str) -> Token | None:
        """A token that is known and has not expired."""
        token = self.state.tokens.get(value)
        if token is None or (token.expires_at is not None and token.expires_at <= self.now()):
            return None
        return token

    # -- names

    def repository_id(self, full_name: str) -> int:
        """The id of a repository; any name exists, and gets its id when it is first asked for."""
        key = full_name.lower()
        if key not in self.state.repositories:
            self.state.repositories[key] = self.next_id()
        return self.state.repositories[key]

    def owner_id(self, name: str) -> int:
        """The id of an organisation or user."""
        key = name.lower()
        if key not in self.state.owners:
            self.state.owners[key] = self.next_id()
        return self.state.owners[key]

    # -- labels

    def labels(self, names: Iterable[str], *, kind: str) -> list[Label]:
        """Labels of one type, without repeats (compared without case)."""
        found: dict[str, Label] = {}
        for name in names:
            if not name.strip() or len(name) > LABEL_LENGTH:
                raise RefusalError(422, f"Label names must have 1 to {LABEL_LENGTH} characters")
            found.setdefault(name.lower(), Label(self._label_id(name), name, kind))
        return list(found.values())

    def _label_id(self, name: str) -> int:
        return self.state.label_ids.setdefault(name.lower(), len(self.state.label_ids) + 1)

    # -- runners

    def add_runner(self, runner: Runner) -> Runner:
        """Store a new record. A taken name is 409."""
        if not runner.name or len(runner.name) > MAX_NAME:
            raise RefusalError(422, f"Runner names must have 1 to {MAX_NAME} characters")
        if (runner.scope, runner.name.lower()) in self.by_name:
            raise RefusalError(409, "Already exists - a runner with this name is registered")
        self.state.runners[runner.id] = runner
        self._enter(runner)
        self.changed.notify_all()
        return runner

    def remove_runner(self, runner: Runner) -> None:
        """Drop a record; its secret is dead from now on."""
        del self.state.runners[runner.id]
        del self.by_scope[runner.scope][runner.id]
        del self.by_name[runner.scope, runner.name.lower()]
        self.retire(runner)
        self.changed.notify_all()

    def retire(self, runner: Runner) -> None:
        """Make a record's secret useless; the listener that still has it is told so."""
        if self.by_secret.pop(runner.secret, None) is not None:
            self.state.retired.append(runner.secret)

    def give_secret(self, runner: Runner) -> str:
        """A new agent secret for a record; an older one is retired."""
        self.retire(runner)
        runner.secret = self.keep_secret("agent", "agt_" + secrets.token_urlsafe(30))
        self.by_secret[runner.secret] = runner
        return runner.secret

    def runner(self, scope: str, runner_id: int) -> Runner:
        """One record of a scope, or 404."""
        runner = self.by_scope.get(scope, {}).get(runner_id)
        if runner is None:
            raise RefusalError(404, "Not Found")
        return runner

    # -- groups

    def groups(self, scope: str) -> dict[int, Group]:
        """The groups of a scope; every scope has the default one."""
        groups = self.state.groups.setdefault(scope, {})
        if DEFAULT_GROUP not in groups:
            groups[DEFAULT_GROUP] = Group(DEFAULT_GROUP, "Default", scope, default=True)
        return groups

    def group(self, scope: str, group_id: int) -> Group:
        """One group, or 404."""
        group = self.groups(scope).get(group_id)
        if group is None:
            raise RefusalError(404, "Not Found")
        return group

    def group_named(self, scope: str, name: str) -> Group:
        """The group of a name (compared without case), or 404."""
        for group in self.groups(scope).values():
            if group.name.lower() == name.lower():
                return group
        raise RefusalError(404, f"Could not find a runner group named {name!r}")
