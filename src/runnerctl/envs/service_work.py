"""A child of the service: one order on standard input, events and one last line on standard output.

``python -m runnerctl.envs.service_work``. It is the leader of its process group, which goes with it: when the
service ends, its end of the pipe says so, and the group ends itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.envs.ensure import Asked, Needed, ensure, peek
from runnerctl.envs.facts import host_facts
from runnerctl.envs.model import EnvironmentFile, Event, Request
from runnerctl.envs.policy import policy_of
from runnerctl.envs.ports import Engine
from runnerctl.envs.service_asks import error_line, event_line, line_of, ready_line
from runnerctl.envs.service_secrets import scrubber
from runnerctl.envs.service_shelf import FactsFound, WorkOrder, driver_line
from runnerctl.envs.store import Store
from runnerctl.errors import AccessError, BugError, DataError, RunnerctlError, TryAgainError

__all__ = ["main"]

GIB = 1 << 30
DAY_SECONDS = 86400.0
Say = Callable[[bytes], None]


class _Worker:
    """One order."""

    def __init__(self, order: WorkOrder, say: Say) -> None:
        self.order, self.say = order, say
        self.store = Store(Path(order.root))
        self.policy = policy_of(order.conda, credentials=order.credentials)

    def run(self) -> None:
        """Do it, and say the last line. Raises what went wrong."""
        ops: dict[str, Callable[[], None]] = {
            "peek": self.peek,
            "build": self.build,
            "lock": self.lock,
            "list": self.list,
            "verify": self.verify,
            "gc": self.gc,
            "remove": self.remove,
        }
        ops[self.order.op]()

    def tell(self, event: Event) -> None:
        """Progress."""
        self.say(event_line(event))

    def asked(self) -> Asked:
        """The request, on this host, under its rules."""
        request = self.order.payload.request or Request(text="")
        cache = self.store.root / "cuda.json"
        facts = host_facts(request.cuda, cache=cache if self.store.root.is_dir() else None)
        return Asked(request, facts, self.policy, owner=self.order.owner, everything=self.order.everything)

    def peek(self) -> None:
        """Read the file: it is there, or must be built, or names files that were not handed over."""
        driver = driver_line()
        asked = self.asked()
        missing = _missing(asked.request)
        if missing:
            self.say(line_of({"needs_files": missing}))
            return
        facts = FactsFound(asked.request.cuda, driver, asked.facts)
        found = peek(self.store, asked)
        if isinstance(found, Needed):
            self.say(line_of({"build": {"key": found.key, "owner": found.owner}, "facts": facts}))
        else:
            self.say(line_of({"ready": found, "facts": facts}))

    def build(self) -> None:
        """Make room if there is too much, then build."""
        self.store.prepare()
        self._within_budget()
        asked = self.asked()
        self.say(ready_line(ensure(self.store, asked, self._engine(asked.request), tell=self.tell)))

    def _engine(self, request: Request) -> Engine:
        from runnerctl.envs.engine_child import child_engine

        if request.engine != "rattler":  # its packages' link scripts would have the store's rights
            what = f"the engine {request.engine} runs scripts of packages, which the host's store does not"
            remedy = f"use rattler, or a store of your own (--store user --engine {request.engine})"
            raise DataError(what, where="--engine", remedy=remedy)
        return child_engine(request.engine)

    def _within_budget(self) -> None:
        """A quick sum first: to measure a store takes long, and most builds find it far below its budget."""
        budget = self.order.conda.store_budget_gib * GIB
        if sum(manifest.size_bytes for each in self.store.all() for manifest, _ in each.manifests()) > budget:
            self._collect(budget, self.order.conda.store_keep_days * DAY_SECONDS, dry_run=False)

    def _collect(self, budget: int | None, keep_seconds: float | None, *, dry_run: bool) -> Any:
        from runnerctl.envs.gc import Limits, collect

        limits = Limits(budget_bytes=budget, keep_seconds=keep_seconds, quota_bytes=self.policy.quota_bytes)
        return collect(self.store, limits, dry_run=dry_run)

    def gc(self) -> None:
        """Collect, by the limits given or the host's own."""
        given, conda = self.order.payload, self.order.conda
        budget = conda.store_budget_gib * GIB if given.budget_bytes is None else given.budget_bytes
        keep = conda.store_keep_days * DAY_SECONDS if given.keep_seconds is None else given.keep_seconds
        self.store.prepare()
        self.say(ready_line(self._collect(budget, keep, dry_run=given.dry_run)))

    def visible(self) -> tuple[Store, ...]:
        """The stores that the asker may look into."""
        if self.order.owner is not None:
            return self.store, self.store.owned(self.order.owner)
        return self.store.all() if self.order.everything else (self.store,)

    def list(self) -> None:
        """What is there for the asker."""
        from runnerctl.envs.listed import listed

        self.say(ready_line({"environments": listed(self.visible(), now=time.time())}))

    def remove(self) -> None:
        """One environment, unless it is in use."""
        from runnerctl.envs.gc import remove

        digest = self.order.payload.digest or ""
        holding = [store for store in self.store.all() if store.published(digest)]
        if not holding:
            raise AccessError("is no environment of this store", where=digest, remedy="runnerctl env list")
        for store in holding:
            if not remove(store, digest):
                raise TryAgainError("is in use", where=digest, remedy="run it again when its jobs are done")
            store.empty_trash()
        self.say(ready_line({"digest": digest}))

    def lock(self) -> None:
        """Solve only."""
        from runnerctl.envs.locking import lock_of

        asked = self.asked()
        missing = _missing(asked.request)
        if missing:
            self.say(line_of({"needs_files": missing}))
            return
        self.store.prepare()
        self.say(ready_line(lock_of(self.store, asked, self._engine(asked.request), tell=self.tell)))

    def verify(self) -> None:
        """Compare with what was installed."""
        from runnerctl.envs.verifying import verified

        payload = self.order.payload
        found = verified(self.visible(), payload.digest, full=payload.full, tell=self.tell)
        self.say(ready_line({"environments": found}))


def _missing(request: Request) -> dict[str, str]:
    """The files that the pip section leads to and that were not handed over, with where each is named."""
    from runnerctl.envs.file import parse

    file = parse(request.text, request.where)
    return {name: said for name, said in _named(file, request) if name not in request.files}


def _named(file: EnvironmentFile, request: Request) -> Iterator[tuple[str, str]]:
    from runnerctl.envs.file_pip import check_pip, file_named, listed_lines

    check_pip(file.pip, file.where)
    todo = [(name, f"{file.where}:{line.line}") for line in file.pip if (name := file_named(line.text))]
    seen: set[str] = set()
    while todo:
        name, said = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name, said
        lines = tuple(listed_lines(request.files.get(name, "")))
        check_pip(lines, name)
        beside = name.rpartition("/")[0]
        inner = [(file_named(line.text), f"{name}:{line.line}") for line in lines]
        todo += [(f"{beside}/{each}" if beside else each, said) for each, said in inner if each]


def main() -> int:
    """Do what one order says. Returns 0: what went wrong is in the last line."""
    out = os.dup(1)
    os.dup2(2, 1)  # libraries that print must not be taken for an answer
    os.umask(0o022)
    line = sys.stdin.buffer.readline()
    threading.Thread(target=_end_with_service, daemon=True).start()
    order = msgspec.json.decode(line, type=WorkOrder)
    scrub = scrubber(order.credentials)

    def say(line: bytes) -> None:
        line = scrub(line)
        while line:
            line = line[os.write(out, line) :]

    try:
        _Worker(order, say).run()
    except RunnerctlError as error:
        say(error_line(error))
    except BrokenPipeError:
        pass
    except BaseException as error:  # a panic of a library in Rust is no Exception
        text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        say(error_line(BugError(f"the environment store met a bug ({text})", remedy="please report it")))
    return 0


def _end_with_service() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 65536):
            pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
