"""Where a command gets environments from: the host's service, or a store that the user owns."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from runnerctl.errors import ConfigError, RunnerctlError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from runnerctl.cli.context import Context
    from runnerctl.cli.env_shown import Asked, Environment, Progress

__all__ = ["HOST_STORE", "Access", "Answer", "Service", "access", "chosen", "ready_for", "told", "user_store"]

VARIABLE = "RUNNERCTL_ENV_STORE"
HOST_STORE = "/var/lib/runnerctl/env"
Answer = Mapping[str, Any]


class Access(Protocol):
    """A store, whoever may write to it. ``place``: the directory it is in.

    Everything raises the errors of the store: DataError for a bad file, UnavailableError, TryAgainError,
    AccessError for what the asker may not do.
    """

    place: str

    def ensure(self, asked: Asked, progress: Progress) -> Answer:
        """Make sure that the environment is there: `model.Ready`."""

    def lock(self, asked: Asked, progress: Progress) -> Answer:
        """Solve only: ``lock`` and ``packages``."""

    def environments(self) -> Sequence[Answer]:
        """What is there, one mapping each."""

    def verify(self, digest: str | None, *, full: bool, progress: Progress) -> Sequence[Answer]:
        """Compare with what was installed: ``digest`` and ``problems`` of each."""

    def gc(self, budget_bytes: int | None, keep_seconds: float | None, *, dry_run: bool) -> Answer:
        """Remove what was not used for long."""


class Service:
    """The store of this host, through its service."""

    place = HOST_STORE

    def __init__(self, socket_path: str) -> None:
        self._socket = socket_path

    def ensure(self, asked: Asked, progress: Progress) -> Answer:
        return self._ask("ensure", {"request": _request(asked)}, progress, _reader(asked))

    def lock(self, asked: Asked, progress: Progress) -> Answer:
        return self._ask("lock", {"request": _request(asked)}, progress, _reader(asked))

    def environments(self) -> Sequence[Answer]:
        return list(self._ask("list", {}).get("environments", ()))

    def verify(self, digest: str | None, *, full: bool, progress: Progress) -> Sequence[Answer]:
        payload = {"full": full, **({"digest": digest} if digest else {})}
        return list(self._ask("verify", payload, progress).get("environments", ()))

    def gc(self, budget_bytes: int | None, keep_seconds: float | None, *, dry_run: bool) -> Answer:
        given = {"budget_bytes": budget_bytes, "keep_seconds": keep_seconds}
        payload = {name: value for name, value in given.items() if value is not None}
        return self._ask("gc", {**payload, "dry_run": dry_run})

    def _ask(
        self,
        op: str,
        payload: dict[str, Any],
        progress: Progress | None = None,
        read: Callable[[str], str] | None = None,
    ) -> Answer:
        from runnerctl.envs import client

        return client.ask(op, payload, socket_path=self._socket, on_event=progress, read=read)


def _request(asked: Asked) -> dict[str, Any]:
    from runnerctl.cli.env_shown import request_of

    return request_of(asked)


def _reader(asked: Asked) -> Callable[[str], str]:
    from runnerctl.envs.client_files import reader

    return reader(os.path.dirname(asked.file))


def chosen(store: str | None, env: Mapping[str, str]) -> str | None:
    """``host``, a directory, or None when nobody chose. Raises UsageError for a choice that is none."""
    choice = store if store is not None else env.get(VARIABLE) or None
    if choice is None or choice == "host":
        return choice
    if choice == "user":
        return user_store(env)
    if "/" not in choice:
        remedy = "give host, user, or a path with a slash in it"
        raise UsageError(f"is {choice!r}", where="--store" if store is not None else VARIABLE, remedy=remedy)
    return os.path.abspath(choice)


def user_store(env: Mapping[str, str]) -> str:
    """Where a user's own store is. Raises ConfigError when there is no home to put it in."""
    home = env.get("HOME", "")
    cache = env.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if home else "")
    if not os.path.isabs(cache):
        raise ConfigError("is not set", where="HOME", remedy="say where the store is: --store PATH")
    return os.path.join(cache, "runnerctl", "env")


def access(context: Context, store: str | None) -> Access:
    """The store to use; a line of the log says which, when somebody chose it.

    Raises UsageError for a choice that is none, ConfigError for a service that this host does not have.
    """
    from runnerctl.envs.client import is_there
    from runnerctl.envs.wire import SOCKET

    socket_path = str(context.paths / SOCKET)
    choice = chosen(store, context.env)
    if choice is None:
        choice = "host" if is_there(socket_path) else user_store(context.env)
    elif choice != "host":
        context.note(f"runnerctl: uses the store at {choice}")
    if choice == "host":
        if not is_there(socket_path):
            remedy = "set conda_store for this host, or use --store user"
            raise ConfigError("this host has no environment store", where=socket_path, remedy=remedy)
        return Service(socket_path)
    from runnerctl.cli.env_own import OwnStore

    return OwnStore(choice, context)


@contextlib.contextmanager
def told(context: Context, title: str, file: str = "") -> Iterator[Progress]:
    """Show what happens; in a workflow, an error is also shown beside the line that it is about.

    ``file``: the environment's file.
    """
    from runnerctl.cli.env_shown import Progress, trouble

    progress = Progress(context.stderr, context.env, title)
    try:
        yield progress
    except RunnerctlError as error:
        progress.close()
        line = trouble(error, context.env, file)
        if line:
            context.note(line)
        raise
    finally:
        progress.close()


def ready_for(context: Context, store: str | None, asked: Asked) -> Environment:
    """The environment that was asked for, with its layer. Raises what the store and the layer raise."""
    from runnerctl.cli.env_shown import prepare

    source = access(context, store)
    with told(context, f"Environment of {asked.file}", asked.file) as progress:
        return prepare(source.ensure(asked, progress), asked.layer, context.env)
