"""The lock of a file: solved now, with the pins that pip came to where its environment was built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from runnerctl.envs.ensure import Asked
from runnerctl.envs.key import digest as digest_of
from runnerctl.envs.model import Event
from runnerctl.envs.ports import Engine, Order, Tell
from runnerctl.envs.store import Store
from runnerctl.envs.store_locks import silent

__all__ = ["Locked", "lock_of"]


class Locked(msgspec.Struct, frozen=True):
    """``lock``: the file's whole text; ``packages``: `model.Package` each, as JSON has it.

    ``pinned``: False when pip's section is not pinned, as the environment was never built here.
    """

    lock: str
    packages: list[dict[str, Any]]
    pinned: bool = True


def lock_of(store: Store, asked: Asked, engine: Engine, *, tell: Tell = silent) -> Locked:
    """Solve a request without its lock, and write one. Installs nothing.

    Raises what the engine's ``solve`` does, DataError for a bad file, AccessError for another's channel.
    """
    from runnerctl.envs.file import parse
    from runnerctl.envs.file_pip import check_files
    from runnerctl.envs.lockfile import write

    request = asked.request
    file = parse(request.text, request.where)
    names = check_files(file.pip, request.files, file.where)
    files = {name: request.files[name] for name in names}
    request = msgspec.structs.replace(request, files=files, lock=None)
    resolved = asked.policy.resolve(file, owner=asked.owner, everything=asked.everything)
    mine = store.owned(resolved.owner) if resolved.owner else store
    mine.prepare()
    secret = asked.policy.credentials if resolved.owner else None  # see ensure: for an owner's channels only
    order = Order(
        file=file,
        channels=resolved.channels,
        facts=asked.facts,
        caches=mine.caches,
        files=files,
        credentials=Path(secret) if secret else None,
        pip_index=asked.policy.pip_index,
    )
    tell(Event("solve", file.where))
    solution = engine.solve(order, tell)
    built = mine.manifest(digest_of(solution, file, request, pip_index=order.pip_index)) if file.pip else None
    pins = built.pip if built else ()
    text = write(solution.lock, file, files=files, engine=request.engine, pip=pins)
    packages = msgspec.to_builtins(sorted(solution.packages, key=lambda package: package.name))
    return Locked(text, packages, pinned=not file.pip or built is not None)
