"""The child that solves and installs: ``python -m runnerctl.envs.build``.

One JSON line on standard input says what to do; standard output has JSON lines: events, then one answer or
one error. Standard input stays open: when it ends, whoever asked is gone, and the child ends itself with
everything it started. So a crash, a panic of a library or an unbounded script takes this process, never the
store.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from runnerctl.envs._engine_errors import no_space, one_line
from runnerctl.envs.model import Activation, EngineName, Event, Package, Solution
from runnerctl.envs.ports import Engine, Installed, Order
from runnerctl.errors import RunnerctlError, TryAgainError, UnavailableError

__all__ = ["Failure", "Reply", "Task", "encode", "main"]

MEMORY_BYTES = 16 << 30  # of private data: a solve of a large channel takes well below one GiB
OPEN_FILES = 65536
UMASK = 0o022


class Task(msgspec.Struct, frozen=True):
    """What to do. ``install``: ``packages`` into ``prefix``, with ``lock`` as `Solution.lock` where known."""

    do: Literal["solve", "install"]
    engine: EngineName
    order: Order
    packages: tuple[Package, ...] = ()
    prefix: str = ""
    lock: str | None = None
    memory_bytes: int = MEMORY_BYTES


class Failure(msgspec.Struct, frozen=True):
    """An error of `errors`: its class by ``kind``."""

    kind: str
    what: str
    where: str = ""
    remedy: str = ""


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of standard output; one of these is set."""

    event: Event | None = None
    solution: Solution | None = None
    installed: Installed | None = None
    failure: Failure | None = None


def main() -> int:
    """Do the task of standard input; 0 when it answered, be it with a failure."""
    answers = _private_stdout()
    line = sys.stdin.buffer.readline()
    task = msgspec.json.decode(line, type=Task, dec_hook=_path)
    threading.Thread(target=_until_alone, args=(sys.stdin.buffer,), daemon=True).start()
    _bounds(task.memory_bytes)
    lock = threading.Lock()

    def send(reply: Reply) -> None:
        with lock:  # rattler's callbacks come from its own threads
            answers.write(msgspec.json.encode(reply) + b"\n")
            answers.flush()

    try:
        send(_done(task, lambda event: send(Reply(event=event))))
    except RunnerctlError as error:
        send(Reply(failure=Failure(type(error).__name__, error.what, error.where, error.remedy)))
    except MemoryError:
        what = f"needs more than {task.memory_bytes >> 20} MiB of memory"
        send(Reply(failure=_failure(TryAgainError(what, where=task.order.file.where))))
    except OSError as error:
        text = f"{error.filename or ''} {error.strerror or error}".strip()
        full = no_space(f"{text} os error {error.errno}")
        send(Reply(failure=_failure(full or UnavailableError(f"could not be written: {text}"))))
    except BaseException as error:  # a panic of Rust is no Exception
        what = f"the engine {task.engine} failed: {type(error).__name__}: {one_line(str(error), 240)}"
        send(Reply(failure=Failure("BugError", what, task.order.file.where, "report it with this line")))
    return 0


def encode(task: Task) -> bytes:
    """The line that `main` reads."""
    return msgspec.json.encode(task, enc_hook=os.fspath) + b"\n"


def _path(kind: type, value: object) -> object:
    if kind is not Path or not isinstance(value, str):
        raise TypeError(f"a task has no {kind.__name__}")
    return Path(value)


def _done(task: Task, tell: Callable[[Event], None]) -> Reply:
    engine = local_engine(task.engine)
    if task.do == "solve":
        return Reply(solution=engine.solve(task.order, tell))
    order = msgspec.structs.replace(task.order, lock=task.lock) if task.lock else task.order
    prefix = Path(task.prefix)
    installed = engine.install(order, task.packages, prefix, tell)
    return Reply(
        installed=msgspec.structs.replace(installed, activation=_activation(prefix, anyway=task.order.anyway))
    )


def _activation(prefix: Path, *, anyway: bool) -> Activation:
    from runnerctl.envs.activation import find_activation

    return find_activation(prefix, anyway=anyway)


def local_engine(name: EngineName) -> Engine:
    """The engine in this very process. Raises ConfigError when it is not installed."""
    if name == "rattler":
        from runnerctl.envs.engine_rattler import Rattler

        return Rattler()
    from runnerctl.envs.engine_conda import Conda

    return Conda(name)


def _failure(error: RunnerctlError) -> Failure:
    return Failure(type(error).__name__, error.what, error.where, error.remedy)


def _private_stdout() -> BinaryIO:
    """Standard output for answers alone: what a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _until_alone(stdin: BinaryIO) -> None:
    """End the whole process group when whoever asked is gone."""
    while stdin.readline(4096):
        pass
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _bounds(memory_bytes: int) -> None:
    os.umask(UMASK)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_DATA, memory_bytes)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (bound, bound))


if __name__ == "__main__":
    sys.exit(main())
