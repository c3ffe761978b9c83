"""Take over a runner that ``svc.sh`` installed, with its registration: no token, no new record.

A *claim* says which installation becomes which slot. ``runnerctl adopt`` writes it; the next converge, or the
command itself, carries it out when no job runs: the stock service is stopped and disabled, the registration's
files move into the slot, and the slot starts. What is moved is kept below ``/var/lib/runnerctl/adopted``.
Standard library only. Source of names and files: actions/runner, ``systemd.svc.sh.template``.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .atomic import atomic_write, sync_directory
from .errors import HostError
from .slot_files import Layout, read_runner_file, runner_fields
from .slot_register import CREDENTIAL_FILES
from .slot_system import System

__all__ = [
    "Claim",
    "Stock",
    "claim_of",
    "claims",
    "forget_claim",
    "is_begun",
    "stock_busy",
    "stock_runners",
    "take_over",
    "write_claim",
]

UNITS = "actions.runner.*.service"
LARGEST_BYTES = 65536  # of a registration's file
STOP_SECONDS = 360.0  # the stock unit gives itself five minutes
SETTINGS = (".runner", ".runner_migrated")
NEEDED = (".runner", ".credentials", ".credentials_rsaparams")
LONGEST_UNIT = 150  # what svc.sh allows; it shortens longer names, and adds four random digits
WORK = "_work"  # the only directory of its jobs that a slot's unit lets it write to
# Where GitHub's own runners connect, beside the server of their URL (docs.github.com, "Self-hosted runners").
SERVICES = (".githubusercontent.com", ".github.com", ".ghe.com")
_SETTING = re.compile(r"^(WorkingDirectory|User)=(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Stock:
    """One installation by ``svc.sh``. ``problem`` says why it cannot be adopted; None when it can."""

    unit: str
    directory: str
    user: str
    active: bool = False
    busy: bool = False
    agent_id: int | None = None
    agent_name: str | None = None
    url: str | None = None
    updates_itself: bool = True
    problem: str | None = None


@dataclass(frozen=True)
class Claim:
    """Which installation becomes the slot: what stood in its ``.runner`` when it was claimed."""

    slot: str
    unit: str
    directory: str
    user: str
    agent_id: int
    agent_name: str
    url: str


def stock_runners(layout: Layout, system: System) -> list[Stock]:
    """Every installation by ``svc.sh`` on the host, by unit name."""
    paths = sorted(layout.units.glob(UNITS)) if layout.units.is_dir() else []
    if not paths:
        return []
    states = system.unit_states([path.name for path in paths])
    return [_stock(layout, system, path, active=states[path.name].running) for path in paths]


def _stock(layout: Layout, system: System, path: Path, *, active: bool) -> Stock:
    try:
        settings = dict(_SETTING.findall(path.read_text(errors="replace")))
    except OSError as error:
        return Stock(path.name, "", "", problem=f"its unit cannot be read: {error.strerror}")
    user, directory = settings.get("User", "root").strip(), settings.get("WorkingDirectory", "").strip()
    bare = Stock(path.name, directory, user, active, stock_busy(system, path.name))
    try:
        files = _read_files(layout, directory, user)
    except HostError as error:
        return Stock(**{**asdict(bare), "problem": error.what})
    runner = runner_fields(files[".runner"]) or {}
    found = {
        "agent_id": runner.get("agentid"),
        "agent_name": runner.get("agentname"),
        "url": runner.get("githuburl"),
        "updates_itself": not runner.get("disableupdate"),
    }
    return Stock(**{**asdict(bare), **found, "problem": _problem(files, path.name)})


def stock_busy(system: System, unit: str) -> bool:
    """Whether a job runs in a stock service, where the listener is not the unit's main process."""
    return any(process.comm == "Runner.Worker" for process in system.processes_in(unit))


def _problem(files: dict[str, bytes], unit: str) -> str | None:
    """Why this registration is not taken over; the runner prefers ``.runner_migrated`` where it is there."""
    settings = [runner_fields(files[name]) or {} for name in SETTINGS if name in files]
    if len({each.get("agentid") for each in settings}) > 1:
        return f"its {' and '.join(SETTINGS)} name different runners"
    return next(filter(None, (_wrong(each, unit) for each in settings)), None)


def _wrong(runner: dict[str, Any], unit: str) -> str | None:
    """What is wrong with settings that jobs could write to.

    A slot's record is found, changed and deleted by what stands there: so the name must be the one in the
    name of the unit, which is root's, and the server must be GitHub's.
    """
    if not runner:
        return "its .runner cannot be understood"
    if runner.get("ephemeral"):
        return "it is ephemeral: its record ends with its next job"
    name, url = runner.get("agentname"), runner.get("githuburl")
    if not name or not url:
        return "its .runner names no runner or no URL"
    if not _is_of_unit(unit, name, url):
        return f"its .runner names runner {name} at {url}, and its unit another: one of them was changed"
    return next(filter(None, (_foreign(runner.get(key), url) for key in ("serverurl", "serverurlv2"))), None)


def _is_of_unit(unit: str, name: str, url: str) -> bool:
    """Whether ``svc.sh`` names the unit of this runner so (actions/runner, ServiceControlManager)."""
    stem = unit.removeprefix("actions.runner.").removesuffix(".service").casefold()
    place = re.sub(r"[^0-9A-Za-z._-]", "-", _parts(url)[1].strip("/")).casefold()
    runner = name.replace(" ", "_").casefold()
    if stem == f"{place}.{runner}":
        return True
    short = re.fullmatch(r"(.+)-[0-9]{4}", stem)
    long = len(f"actions.runner.{place}.{runner}.service") > LONGEST_UNIT
    return long and short is not None and f"{place[:70]}.{runner}".startswith(short[1])


def _foreign(server: Any, url: str) -> str | None:
    """What is wrong with the server that the runner connects to; None when nothing is."""
    if not server:
        return None
    host, home = _parts(str(server))[0], _parts(url)[0]
    known = host and (host == home or host.endswith((*SERVICES, f".{home}")))
    return None if known else f"its .runner names {server}, which is no server of {home}"


def _parts(url: str) -> tuple[str, str]:
    """Host and path of a URL; empty ones when it is none."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.path
    except ValueError:
        return "", ""


def _read_files(layout: Layout, directory: str, user: str) -> dict[str, bytes]:
    """The registration's files, read without trust: the directory belongs to a user who runs jobs.

    A link, a second name of another file, somebody else's file or a huge one could make root carry away what
    it should not: refused. Raises HostError.
    """
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        raise HostError(f"its user {user} does not exist", where=directory) from None
    if not directory.startswith("/"):
        raise HostError("its unit names no working directory", where=directory)
    files: dict[str, bytes] = {}
    for name in CREDENTIAL_FILES:
        data = _read_own(layout.path(directory) / name, uid)
        if data is not None:
            files[name] = data
    if missing := [name for name in NEEDED if name not in files]:
        raise HostError(f"it has no {' and no '.join(missing)}", where=directory)
    return files


def _read_own(path: Path, uid: int) -> bytes | None:
    """The content of a regular file that ``uid`` owns; None when there is none. Raises HostError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"its {path.name} cannot be read: {error.strerror}", where=str(path)) from None
    try:
        status = os.fstat(descriptor)
        plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == uid
        if not plain or status.st_size > LARGEST_BYTES:
            raise HostError(f"its {path.name} is no plain file of its user", where=str(path))
        return os.read(descriptor, LARGEST_BYTES)
    finally:
        os.close(descriptor)


# -- claims --------------------------------------------------------------------------------------------------


def _claim_path(layout: Layout, slot: str) -> Path:
    return layout.path("/var/lib/runnerctl/adopt") / f"{slot}.json"


def write_claim(layout: Layout, claim: Claim) -> None:
    """Note which installation is to become the slot."""
    path = _claim_path(layout, claim.slot)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    atomic_write(str(path), (json.dumps(asdict(claim), indent=2) + "\n").encode())


def claim_of(layout: Layout, slot: str) -> Claim | None:
    """The claim of a slot that has not been carried out, or None; one that cannot be read is none."""
    try:
        data = json.loads(_claim_path(layout, slot).read_text())
        claim = Claim(**data)
    except (OSError, ValueError, TypeError):
        return None
    texts = (claim.unit, claim.url, claim.directory, claim.user, claim.agent_name)
    sound = isinstance(claim.agent_id, int) and claim.slot == slot
    return claim if sound and all(isinstance(value, str) for value in texts) else None


def claims(layout: Layout) -> list[Claim]:
    """All claims of the host that have not been carried out, also those of slots that it does not have."""
    folder = _claim_path(layout, "any").parent
    names = sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []
    return [claim for claim in (claim_of(layout, name) for name in names) if claim]


def forget_claim(layout: Layout, slot: str) -> bool:
    """Take a claim back; False when there was none."""
    path = _claim_path(layout, slot)
    if path not in path.parent.glob("*.json"):  # a slot's name, and no way to another file
        return False
    path.unlink(missing_ok=True)
    return True


def is_begun(layout: Layout, claim: Claim) -> bool:
    """Whether the slot has the registration already: then the claim is to be carried out, not forgotten."""
    runner = read_runner_file(layout.slot_root(claim.slot) / ".runner") or {}
    return runner.get("agentid") == claim.agent_id


# -- the take-over -------------------------------------------------------------------------------------------


def take_over(layout: Layout, system: System, claim: Claim, *, version: str) -> None:
    """Stop the stock service and move its registration into the slot, whose directory is there already.

    ``version`` is the release that the slot will run. It can be run again after a kill at any point: files
    are copied before any is removed, and the claim goes last. Raises HostError when a job runs, or when the
    installation is not what was claimed any more; then the stock service is left running.
    """
    if not is_begun(layout, claim):
        _claimed_files(layout, claim)  # before anything is stopped
        ran = _stop(system, claim)
        try:
            _move(layout, claim, version)
        except (HostError, OSError):
            if ran:
                system.systemctl("start", claim.unit)
            raise
    else:
        _stop(system, claim)
    _retire(layout, system, claim)
    forget_claim(layout, claim.slot)


def _stop(system: System, claim: Claim) -> bool:
    """Stop the stock service; whether it ran. Raises HostError when it runs a job."""
    if not system.unit_states([claim.unit])[claim.unit].running:
        return False
    if stock_busy(system, claim.unit):
        remedy = "run again when it has ended"
        raise HostError("has begun a job meanwhile", where=claim.unit, remedy=remedy)
    system.systemctl("stop", claim.unit, seconds=STOP_SECONDS)
    return True


def _claimed_files(layout: Layout, claim: Claim) -> dict[str, bytes]:
    """The registration's files, when they are still those of the claim. Raises HostError."""
    files = _read_files(layout, claim.directory, claim.user)
    runner = runner_fields(files[".runner"]) or {}
    same = (runner.get("agentid"), runner.get("agentname")) == (claim.agent_id, claim.agent_name)
    wrong = _problem(files, claim.unit) if same else "it is registered as another runner than was claimed"
    if wrong:
        remedy = f"runnerctl adopt --forget {claim.slot}, and claim it again when it is as it should be"
        raise HostError(f"{claim.directory}: {wrong}", where=f"slot {claim.slot}", remedy=remedy)
    return files


def _move(layout: Layout, claim: Claim, version: str) -> None:
    """Copy what is the slot's from now on. ``.runner`` comes last: it makes the slot one."""
    files, root = _claimed_files(layout, claim), layout.slot_root(claim.slot)
    _keep(layout, claim, files)
    _write_state(layout, claim, version)
    for name in sorted(files, key=lambda name: name == ".runner"):
        data = _with_own_work(files[name]) if name in SETTINGS else files[name]
        atomic_write(str(root / name), data, mode=0o640)


def _with_own_work(content: bytes) -> bytes:
    """The settings with the slot's own directory for its jobs, wherever those of the installation worked."""
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return content
    known = data if isinstance(data, dict) else {}
    wrong = [key for key in known if key.lower() == "workfolder" and known[key] != WORK]
    return json.dumps({**known, **dict.fromkeys(wrong, WORK)}, indent=2).encode() if wrong else content


def _write_state(layout: Layout, claim: Claim, version: str) -> None:
    state: dict[str, Any] = {"name": claim.slot, "url": claim.url, "runner_name": claim.agent_name}
    state |= {"agent_id": claim.agent_id, "version": version, "registering": False, "adopted": claim.agent_id}
    atomic_write(str(layout.state("slots", claim.slot)), (json.dumps(state, indent=2) + "\n").encode())


def _keep(layout: Layout, claim: Claim, files: dict[str, bytes]) -> None:
    """Nothing is lost: what is moved, and the unit, stay readable for root."""
    folder = layout.path("/var/lib/runnerctl/adopted") / claim.slot
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    unit = layout.units / claim.unit
    kept = dict(files)
    if unit.is_file():
        kept[claim.unit] = unit.read_bytes()
    for name, data in kept.items():
        atomic_write(str(folder / name), data, mode=0o600)


def _retire(layout: Layout, system: System, claim: Claim) -> None:
    """The old service must never start again: two sessions of one runner exclude each other."""
    unit = layout.units / claim.unit
    if unit.is_file():
        system.systemctl("disable", "--quiet", claim.unit)
        unit.unlink(missing_ok=True)
        sync_directory(str(unit.parent))
        system.systemctl("daemon-reload")
        system.forget_failure(claim.unit)
    with contextlib.suppress(OSError, KeyError):
        _remove_own(layout.path(claim.directory), pwd.getpwnam(claim.user).pw_uid)


def _remove_own(folder: Path, uid: int) -> None:
    """Remove the registration's files that ``uid`` owns: a link to another directory finds none there."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in (*CREDENTIAL_FILES, ".service"):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(name, dir_fd=directory, follow_symlinks=False).st_uid == uid:
                    os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)
