"""What ``conda activate`` would do, found out once at build time, so that no job has to run it.

A clean bash sources the environment's scripts; what they changed is the answer. Nothing of the builder's own
environment goes in, no standard input, they are confined (`sandbox`) to the environment and a folder of their
own, and a deadline holds the whole thing. Where the kernel cannot confine them they are read, not run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from runnerctl.envs import sandbox
from runnerctl.envs.file import variable_fault
from runnerctl.envs.model import Activation
from runnerctl.errors import DataError

__all__ = ["SECONDS", "find_activation"]

SECONDS = 60.0
MAX_BYTES = 1 << 20  # of everything that scripts may set
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNSET = "***unset***"  # how conda's state file says that a variable is to go away
# bash's own, and what would change how every later step is run
OURS = {"_", "SHLVL", "PWD", "OLDPWD", "HOME", "TMPDIR", "PS1", "PATH"}
OURS |= {"CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_SHLVL", "CONDA_PROMPT_MODIFIER"}
REFUSED = ("BASH_ENV", "ENV", "IFS", "SHELL", "USER", "LOGNAME", "SHELLOPTS", "BASHOPTS", "PS4", "CDPATH")
ADDED = {"PYTHONNOUSERSITE": "1"}  # a user's own site-packages must not reach into a shared environment
# ``export NAME=value`` with nothing in it that a shell would look at
PLAIN_LINE = re.compile(r"""export\s+([A-Za-z_]\w*)=(?:'([^']*)'|"([^"$`\\]*)"|([\w@%+:,./-]*))""", re.ASCII)
# $1: folder for answers; the rest: scripts
SCRIPT = """
work=$1; shift
command -p env -0 >"$work/before"
declare -F >"$work/functions-before"
for script in "$@"; do
  printf %s "$script" >"$work/now"
  . "$script" </dev/null >>"$work/output" 2>&1
done
declare -F >"$work/functions"
alias -p >"$work/aliases"
command -p env -0 >"$work/after"
"""


def find_activation(prefix: Path, *, seconds: float = SECONDS, anyway: bool = False) -> Activation:
    """The variables and directories that activating ``prefix`` gives; runs its ``activate.d`` once.

    ``anyway``: run it where the kernel cannot confine it, too: the store is the user's own. Raises
    DataError when a script ends the shell, does not end within ``seconds``, or sets more than 1 MiB,
    UnavailableError when the kernel refuses to confine them.
    """
    scripts = sorted((prefix / "etc" / "conda" / "activate.d").glob("*.sh"))
    notes: list[str] = []
    variables = _declared(prefix, notes)
    front = [str(prefix / "bin")]
    if scripts and not anyway and not sandbox.is_available():
        variables |= _kept(_read_only(prefix, scripts, notes), "", notes)
        scripts = []
    if not scripts:
        return Activation(tuple(front), {**_base(prefix), **variables}, tuple(notes))
    start = {**_base(prefix), **variables, "CONDA_SHLVL": "1", "PATH": f"{front[0]}:{SYSTEM_PATH}"}
    with sandbox.scratch("activate") as own:
        folder = str(own)
        rules = sandbox.Rules(write=(own,), read=(prefix,), anyway=anyway, file_bytes=16 * MAX_BYTES)
        _source(rules, scripts, {**start, "HOME": folder, "LANG": "C.UTF-8"}, seconds=seconds)
        before, after = (_environment(own / name) for name in ("before", "after"))
        notes += _shell_notes(own)
    notes += [
        f"{name}: the scripts remove it, which cannot be carried over" for name in before if name not in after
    ]
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    variables |= _kept(changed, folder, notes)
    return Activation(
        _path(after.get("PATH", ""), front, notes), {**_base(prefix), **variables}, tuple(notes)
    )


def _base(prefix: Path) -> dict[str, str]:
    return {"CONDA_PREFIX": str(prefix), "CONDA_DEFAULT_ENV": str(prefix), **ADDED}


def _declared(prefix: Path, notes: list[str]) -> dict[str, str]:
    """Variables that packages and the environment's state declare as data, in conda's order."""
    found: dict[str, str] = {}
    for file in sorted((prefix / "etc" / "conda" / "env_vars.d").glob("*.json")):
        found |= _strings(prefix, file, notes)
    state = prefix / "conda-meta" / "state"
    if state.exists():
        found |= _strings(prefix, state, notes, key="env_vars")
    return _kept({name: value for name, value in found.items() if value != UNSET}, "", notes)


def _strings(prefix: Path, file: Path, notes: list[str], *, key: str | None = None) -> dict[str, str]:
    """A JSON file's table, or that of its ``key``."""
    try:
        table = json.loads(sandbox.read_within(file, prefix, limit=MAX_BYTES))
        if key is not None:
            table = table.get(key, {}) if isinstance(table, dict) else None
    except (OSError, ValueError):
        table = None
    if not isinstance(table, dict):
        notes.append(f"{file.name}: is no table of variables, passed over")
        return {}
    return {str(name): str(value) for name, value in table.items()}


def _kept(variables: Mapping[str, str], folder: str, notes: list[str]) -> dict[str, str]:
    """What later steps may have of the variables; a note for each that they may not."""
    kept = {}
    for name, value in sorted(variables.items()):
        if name in OURS or name.startswith("BASH_FUNC_"):
            continue
        fault = variable_fault(name)
        if fault is None and name in REFUSED:
            fault = "decides how every later step of a job runs"
        if fault is None and folder and folder in value:
            fault = "points into a folder of the build"
        if fault:
            notes.append(f"{name}: {fault}; left out")
        else:
            kept[name] = value
    return kept


def _read_only(prefix: Path, scripts: Sequence[Path], notes: list[str]) -> dict[str, str]:
    """What can be had of scripts without running them: lines that set a variable to a plain value."""
    found, passed = {}, set()
    for script in scripts:
        try:
            text = sandbox.read_within(script, prefix, limit=MAX_BYTES)
        except (OSError, ValueError):
            passed.add(script.name)
            continue
        for line in text.splitlines():
            plain = PLAIN_LINE.fullmatch(line.strip())
            if plain:
                found[plain[1]] = next((part for part in plain.groups()[1:] if part is not None), "")
            elif line.strip() and not line.strip().startswith("#"):
                passed.add(script.name)
    notes += [
        f"{name}: not run, as this host's kernel cannot confine it (Landlock)" for name in sorted(passed)
    ]
    return found


def _source(
    rules: sandbox.Rules, scripts: Sequence[Path], environment: Mapping[str, str], *, seconds: float
) -> None:
    (folder,) = rules.write
    shell = ["bash", "--noprofile", "--norc", "-c", SCRIPT, "activate", str(folder), *map(str, scripts)]
    ended = sandbox.run(rules, shell, environment=environment, folder=folder, seconds=seconds)
    if ended.code is None or not (folder / "after").exists():
        now = sandbox.read_answer(folder / "now", limit=4096)
        names = [script.name for script in scripts if str(script).encode() == now]
        name = names[0] if names else "an activation script"
        what = f"{name} of activate.d "
        what += f"did not end in {seconds:.0f} s" if ended.code is None else "ended the shell"
        raise DataError(what, remedy="leave out the package that brings it, or tell whoever makes it")


def _environment(file: Path) -> dict[str, str]:
    text = sandbox.read_answer(file, limit=MAX_BYTES)
    if not text:  # empty: the kernel refused to hand so much to ``env``
        what = "the activation scripts set more than a process can be given, or more than 1 MiB"
        raise DataError(what, remedy="leave out the package that brings them")
    pairs = (item.partition(b"=") for item in text.split(b"\0") if item)
    found = {}
    for name, _, value in pairs:
        try:
            found[name.decode("utf-8")] = value.decode("utf-8")
        except UnicodeDecodeError:
            continue  # no runner takes it
    return found


def _lines(file: Path) -> list[str]:
    return (sandbox.read_answer(file, limit=MAX_BYTES) or b"").decode("utf-8", "replace").splitlines()


def _shell_notes(folder: Path) -> list[str]:
    functions = set(_lines(folder / "functions")) - set(_lines(folder / "functions-before"))
    names = sorted(line.rpartition(" ")[2] for line in functions if line)
    notes = [f"{name}: a shell function, which cannot be carried over" for name in names]
    found = sorted(
        line.removeprefix("alias ").partition("=")[0]
        for line in _lines(folder / "aliases")
        if line.startswith("alias ")
    )
    return notes + [f"{name}: a shell alias, which cannot be carried over" for name in found]


def _path(path: str, front: list[str], notes: list[str]) -> tuple[str, ...]:
    """The directories to put in front of a job's PATH."""
    usual = [*front, *SYSTEM_PATH.split(":")]
    listed = [part for part in path.split(":") if part.startswith("/")]
    after = listed.index(usual[1]) if usual[1] in listed else len(listed)
    notes += [f"PATH: {part} comes first, not last" for part in listed[after:] if part not in usual]
    found = [part for part in listed[:after] + listed[after:] if part not in usual[1:]]
    return tuple(dict.fromkeys(found if front[0] in found else [*found, *front]))
