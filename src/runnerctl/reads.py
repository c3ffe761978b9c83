"""What plans are made from: records and groups of one scope, read directly or once for a whole play."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import msgspec

from runnerctl.errors import AccessError, DataError
from runnerctl.github.groups import named_group
from runnerctl.github.models import Runner, RunnerDownload, RunnerGroup
from runnerctl.github.pages import PER_PAGE
from runnerctl.github.registry import Registry
from runnerctl.play import LARGE, Play

__all__ = ["DirectReads", "Reads", "SharedReads"]

FEW = 3  # slots whose runners are looked up one by one, whatever else the scope has

T = TypeVar("T")


class Reads(Protocol):
    """Reading one scope. Every method raises what `Registry` raises."""

    def by_name(self, name: str) -> Runner | None:
        """The runner of a name."""
        ...

    def by_id(self, runner_id: int) -> Runner | None:
        """The runner of an id."""
        ...

    def group_id(self, name: str | None) -> int | None:
        """The id of a group, of the default group for None; None at a repository, which has none.

        Raises ConfigError when there is no such group.
        """
        ...

    def downloads(self) -> Sequence[RunnerDownload]:
        """The releases GitHub offers."""
        ...

    def release_digest(self, version: str, filename: str) -> str | None:
        """The SHA-256 that the runner's own release gives for a file."""
        ...

    def prove_access(self) -> None:
        """Ask for something that needs the right to manage runners; raises AccessError."""
        ...


class DirectReads:
    """Each question goes to GitHub; groups and downloads are asked for once."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._groups: Sequence[RunnerGroup] | None = None
        self._public: bool | None = None
        self._downloads: Sequence[RunnerDownload] | None = None

    def by_name(self, name: str) -> Runner | None:
        """One request."""
        return self.registry.runner_by_name(name)

    def by_id(self, runner_id: int) -> Runner | None:
        """One request."""
        return self.registry.runner(runner_id)

    def group_id(self, name: str | None) -> int | None:
        """One request for all groups."""
        if self.registry.scope.kind == "repository":
            return None
        if name:
            return named_group(self.groups(), name, where=self.registry.scope.name).id
        return next((group.id for group in self.groups() if group.default), None)

    def groups(self) -> Sequence[RunnerGroup]:
        """One request for all groups."""
        if self._groups is None:
            self._groups = self._read_groups()
        return self._groups

    def is_public(self) -> bool:
        """One request: whether a repository is public. What may not be read is not: anybody reads what is."""
        if self._public is None:
            self._public = False
            with suppress(AccessError):
                found = self.registry.repository()
                self._public = found is not None and found.private is False
        return self._public

    def _read_groups(self) -> Sequence[RunnerGroup]:
        return self.registry.groups()

    def downloads(self) -> Sequence[RunnerDownload]:
        """One request."""
        if self._downloads is None:
            self._downloads = self._read_downloads()
        return self._downloads

    def _read_downloads(self) -> Sequence[RunnerDownload]:
        return self.registry.downloads()

    def release_digest(self, version: str, filename: str) -> str | None:
        """One request."""
        return self.registry.release_digest(version, filename)

    def prove_access(self) -> None:
        """One request, whose answer is needed anyhow."""
        self.downloads()


class SharedReads(DirectReads):
    """The play's workers ask once together.

    ``slots`` is how many slots of this scope the play is for: with few of them, or with many more runners in
    the scope, each is looked up by itself.
    """

    def __init__(self, registry: Registry, play: Play, *, slots: int) -> None:
        super().__init__(registry)
        self._play = play
        self._slots = slots
        self._has_list: bool | None = None if slots > FEW else False
        self._names: dict[str, Runner] = {}
        self._ids: dict[int, Runner] = {}

    def by_name(self, name: str) -> Runner | None:
        """From the play's list of all runners."""
        return self._names.get(name.casefold()) if self._listed() else super().by_name(name)

    def by_id(self, runner_id: int) -> Runner | None:
        """From the play's list of all runners."""
        return self._ids.get(runner_id) if self._listed() else super().by_id(runner_id)

    def prove_access(self) -> None:
        """The list of runners is proof enough."""
        if not self._listed():
            super().prove_access()

    def release_digest(self, version: str, filename: str) -> str | None:
        """Once for the play."""

        def read() -> bytes | None:
            found = self.registry.release_digest(version, filename)
            return found.encode() if found else None

        return self._share(("digest", version, filename), read).decode() or None

    def _read_groups(self) -> Sequence[RunnerGroup]:
        found: Sequence[RunnerGroup] = self._decoded(
            ("groups",), lambda: msgspec.json.encode(self.registry.groups()), tuple[RunnerGroup, ...]
        )
        return found

    def _read_downloads(self) -> Sequence[RunnerDownload]:
        """Not shared where the server gives a token with it: no secret is left on disk."""
        own: list[RunnerDownload] = []

        def read() -> bytes | None:
            own[:] = self.registry.downloads()
            return None if any(item.temp_download_token for item in own) else msgspec.json.encode(own)

        return self._decoded(("downloads",), read, tuple[RunnerDownload, ...]) or own

    def _listed(self) -> bool:
        """Whether there is a list to look into; the first call reads it."""
        if self._has_list is None:
            found = self._decoded(("runners",), self._list, tuple[Runner, ...] | None, lasting=False)
            self._names = {runner.name.casefold(): runner for runner in found or ()}
            self._ids = {runner.id: runner for runner in found or ()}
            self._has_list = found is not None
        return self._has_list

    def _list(self) -> bytes:
        """All runners, unless that takes more requests than looking each slot's runner up; then null."""
        return msgspec.json.encode(self.registry.runners_within(PER_PAGE * self._slots))

    def _share(
        self, what: tuple[str, ...], read: Callable[[], bytes | None], *, lasting: bool | None = None
    ) -> bytes:
        client = self.registry.client
        identity = client.credential.identity if client.credential else "anonymous"
        if not identity:
            return read() or b""
        key = (client.api_url, identity, self.registry.scope.path, *what)
        return self._play.shared(key, read, lasting=self._slots >= LARGE if lasting is None else lasting)

    def _decoded(
        self,
        what: tuple[str, ...],
        read: Callable[[], bytes | None],
        kind: Any,
        *,
        lasting: bool | None = None,
    ) -> Any:
        data = self._share(what, read, lasting=lasting)
        try:
            return msgspec.json.decode(data, type=kind) if data else ()
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise DataError(
                "what an earlier worker of this run left cannot be read",
                where="the cache",
                remedy="set RUNNERCTL_CACHE_DIR=off, or empty the cache's directory",
            ) from None
