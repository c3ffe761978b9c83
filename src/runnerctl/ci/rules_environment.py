"""Rules about where a job's environment comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runnerctl.ci.rules import Hit, Rule, rule
from runnerctl.ci.rules_shared import (
    SETUP_CONDA,
    SETUP_MICROMAMBA,
    creates,
    creation_name,
    environment_files,
    without_lines,
)
from runnerctl.ci.workflow_model import Job, Repository, Step
from runnerctl.ci.workflow_shell import Command
from runnerctl.ci.workflow_yaml import as_list, as_map, text_of

__all__ = ["RULES"]

_SETUP_PYTHON = "actions/setup-python"
_PROFILE = re.compile(
    r"(>|\btee\b)[^|;&#]*[\"' ](~|\$HOME|\$\{HOME\})"
    r"/\.(bashrc|bash_profile|bash_login|profile|zshrc|condarc)\b"
)
_PYTHON_SPEC = re.compile(r"(?:^|\s)[\"']?python\s*==?\s*(\d[\d.]*)")


@rule(
    "ci.environment_made_twice",
    "error",
    title="One environment made twice in a job",
    why=(
        "The set-up action made the environment already: conda env create ends with 'prefix already exists',"
        " and an update only costs minutes or changes what was tested."
    ),
    remedy="keep one of the two; the set-up step with environment-file is enough",
    example=(
        "- uses: conda-incubator/setup-miniconda@...\n  with: {environment-file: environment.yml}\n"
        "- run: conda env create -f environment.yml"
    ),
)
def environment_made_twice(repository: Repository) -> Iterator[Hit]:
    """A set-up action with a file (or a name), then conda env create or update of the same."""
    for job in repository.jobs:
        made: list[str] = []
        for step in job.steps:
            for command in step.commands:
                name = creation_name(command)
                if name is None or not made:
                    continue
                if _named(repository, command, name) in made and not _skipped_on_hit(step):
                    message = (
                        f"{command.program} {' '.join(command.words[1:3])} makes an environment that is there"
                    )
                    yield Hit("ci.environment_made_twice", step.file, step.at(command), message)
            made += _makes(repository, step)


def _skipped_on_hit(step: Step) -> bool:
    return "cache-hit" in step.condition and not environment_files(step)


def _named(repository: Repository, command: Command, name: str) -> str:
    file = command.value("-f", "--file") or "environment.yml"
    return name or _name_in(repository, file) or file


def _name_in(repository: Repository, file: str) -> str:
    plain = file.removeprefix("./")
    return next((each.name for each in repository.environments if each.file == plain), "")


def _makes(repository: Repository, step: Step) -> list[str]:
    file = environment_files(step)
    if file:
        name = step.input("activate-environment") or step.input("environment-name")
        return [name or _name_in(repository, file) or file]
    if step.action_name == SETUP_CONDA and step.input("activate-environment"):
        return [step.input("activate-environment")]
    found = [
        (command, creation_name(command)) for command in step.commands if "update" not in command.words[:3]
    ]
    return [_named(repository, command, name) for command, name in found if name is not None]


@rule(
    "ci.auto_update_conda",
    "warning",
    fixable=True,
    title="The base installation is updated by a job",
    why=(
        "auto-update-conda changes the installation that other jobs of the host use at that very moment, and"
        " makes each run depend on the day."
    ),
    remedy="remove auto-update-conda, and pin the installer's version",
    example="- uses: conda-incubator/setup-miniconda@...\n  with: {auto-update-conda: true}",
)
def auto_update_conda(repository: Repository) -> Iterator[Hit]:
    """``auto-update-conda: true``, or ``conda update conda``, on a self-hosted runner."""
    for job in repository.jobs:
        for step in job.steps:
            if not job.self_hosted or step.hosted_only:
                continue
            if step.action_name == SETUP_CONDA and step.input("auto-update-conda") == "true":
                line = step.input_line("auto-update-conda")
                edits = without_lines(step.file, line) if len(step.inputs) > 1 else ()
                message = "auto-update-conda changes the installation that other jobs use"
                yield Hit("ci.auto_update_conda", step.file, line, message, edits)
            for command in step.commands:
                if command.words[:2] == ("conda", "update") and "conda" in command.words[2:]:
                    message = "conda updates itself in the middle of other jobs"
                    yield Hit("ci.auto_update_conda", step.file, step.at(command), message)


@rule(
    "ci.profiles_edited",
    "warning",
    title="The runner's user gets other start-up files",
    why=(
        "setup-miniconda replaces ~/.condarc, removes shell profiles and appends conda activate to them. On a"
        " persistent machine the next job inherits all of it."
    ),
    remedy="use .github/actions/conda-env (runnerctl ci init writes it), which touches no file of the user",
    example=(
        "gpu_tests:\n  runs-on: [self-hosted, gpu]\n  steps:\n    - uses: conda-incubator/setup-miniconda@..."
    ),
)
def profiles_edited(repository: Repository) -> Iterator[Hit]:
    """setup-miniconda on a self-hosted runner, unless run-init and remove-profiles are both switched off.

    Also ``conda init`` and its like in a script, and lines that a script adds to a start-up file.
    """
    for job in repository.jobs:
        for step in job.steps if job.self_hosted and not job.node.get("container") else ():
            if step.hosted_only:
                continue
            for command in step.commands:
                if _edits_profile(command):
                    message = f"{' '.join(command.words[:2])} edits the profiles of job {job.id!r}'s machine"
                    yield Hit("ci.profiles_edited", step.file, step.at(command), message)
            for line in _appended(step):
                message = f"a start-up file of job {job.id!r}'s machine is written to"
                yield Hit("ci.profiles_edited", step.file, line, message)
            if step.action_name != SETUP_CONDA:
                continue
            if step.input("run-init") == "false" and step.input("remove-profiles") == "false":
                continue
            message = f"setup-miniconda edits the profiles of the machine that runs job {job.id!r}"
            yield Hit("ci.profiles_edited", step.file, step.line, message)


def _edits_profile(command: Command) -> bool:
    if command.program in ("conda", "mamba", "micromamba"):
        words = command.arguments
        asked = words[:1] == ("init",) or words[:2] == ("shell", "init")
        return asked and not command.has("--dry-run", "-d", "--reverse")
    return False


def _appended(step: Step) -> Iterator[int]:
    """Lines of a script that write to a start-up file."""
    for number, line in enumerate(step.run.splitlines()):
        if _PROFILE.search(line) and not line.lstrip().startswith("#"):
            yield step.run_line + number


@rule(
    "ci.python_version_conflict",
    "error",
    fixable=True,
    title="Two versions of Python",
    why=(
        "One of them loses, silently: either the environment is not the one of environment.yml, or it is"
        " solved twice."
    ),
    remedy="remove python-version; environment.yml says which Python it is",
    example="with:\n  environment-file: environment.yml # python=3.11\n  python-version: '3.12'",
)
def python_version_conflict(repository: Repository) -> Iterator[Hit]:
    """python-version of the set-up step against the pin in environment.yml; of a matrix, each value."""
    pinned = repository.environment.version("python") if repository.environment else ""
    for job in repository.jobs if pinned else ():
        made = any(creates(step) for step in job.steps)
        for step in job.steps if made else ():
            given, key = _pythons(job, step)
            other = next((each for each in given if not _agree(each, pinned)), None)
            if other is None:
                continue
            line = step.input_line(key)
            alone = key == "python-version" and "${{" not in step.input(key)
            edits = without_lines(step.file, line) if alone and environment_files(step) else ()
            message = f"python-version {other} against python={pinned} in {repository.environments[0].file}"
            yield Hit("ci.python_version_conflict", step.file, line, message, edits)


def _pythons(job: Job, step: Step) -> tuple[list[str], str]:
    """The versions of Python that a set-up step is given, and by which input; none when a run decides."""
    if step.action_name not in (SETUP_CONDA, SETUP_MICROMAMBA, _SETUP_PYTHON):
        return [], ""
    if step.action_name == SETUP_MICROMAMBA:
        return _PYTHON_SPEC.findall(step.input("create-args")), "create-args"
    text = step.input("python-version").strip()
    axis = re.fullmatch(r"\$\{\{\s*matrix\.([\w-]+)\s*\}\}", text)
    if axis and environment_files(step):
        values = as_list(as_map(as_map(job.node.get("strategy")).get("matrix")).get(axis[1]))
        return [text_of(each) for each in values if re.match(r"\d", text_of(each))], "python-version"
    return ([text] if text and "${{" not in text else []), "python-version"


def _agree(given: str, pinned: str) -> bool:
    mine, theirs = (
        [part for part in re.sub(r"[^\d.].*", "", text).split(".") if part] for text in (given, pinned)
    )
    size = min(len(mine), len(theirs), 3)
    return mine[:size] == theirs[:size]


@rule(
    "ci.pip_beside_environment",
    "warning",
    title="Packages that environment.yml does not know",
    why=(
        "A package that only CI installs is missing on every developer's machine, unpinned, and may replace"
        " what conda installed. The cache key does not know it either."
    ),
    remedy="put the package into environment.yml (its pip: section will do)",
    example="- run: pip install pytest-xdist # environment.yml has none",
)
def pip_beside_environment(repository: Repository) -> Iterator[Hit]:
    """``pip install NAME`` or ``-r FILE`` in a job with an environment; the project itself is none."""
    for job in repository.jobs if repository.environments else ():
        if not any(creates(step) or _activates(step) for step in job.steps):
            continue
        for step, command in job.programs("pip", "pip3", "uv"):
            words = command.words[1:] if command.program == "uv" else command.words
            found = _foreign(words) if words[1:2] == ("install",) and words[0] != "tool" else []
            if found:
                message = f"pip installs {', '.join(found[:4])} beside environment.yml"
                yield Hit("ci.pip_beside_environment", step.file, step.at(command), message)


def _activates(step: Step) -> bool:
    if step.action_name.endswith("/conda-env"):
        return True
    return any(command.words[:3] == ("runnerctl", "env", "ensure") for command in step.commands)


def _built(word: str) -> bool:
    """A path, a variable, or an archive that an earlier step built."""
    return word.startswith((".", "/", "$", "dist/", "wheels/")) or word.endswith((".whl", ".tar.gz", ".zip"))


def _foreign(words: tuple[str, ...]) -> list[str]:
    """What a pip install names beside the project itself."""
    words, at = words[2:], 0
    found: list[str] = []
    while at < len(words):
        word = words[at]
        following = words[at + 1] if at + 1 < len(words) else ""
        if word in ("-r", "--requirement"):
            found += [] if following.startswith("$") else [f"-r {following}"]
        elif re.match(r"-r.", word) or (not word.startswith("-") and not _built(word)):
            found.append(word)
        takes = word in ("-r", "--requirement", "-c", "--constraint", "-e", "--editable", "-i", "--index-url")
        at += 2 if takes or word in ("-t", "--target", "--extra-index-url", "-f", "--find-links") else 1
    return found


@rule(
    "ci.defaults_channel",
    "warning",
    title="The channel defaults, whose terms ask for a licence",
    why=(
        "Anaconda's terms want a paid licence for defaults (repo.anaconda.com) from organisations of 200"
        " people and more; a CI host is just such automated use. Our store refuses it."
    ),
    remedy="use conda-forge only",
    example="channels:\n  - defaults",
)
def defaults_channel(repository: Repository) -> Iterator[Hit]:
    """``defaults`` or an address of repo.anaconda.com in environment.yml or in a set-up step."""
    for environment in repository.environments:
        for channel, line in environment.channels:
            if _is_defaults(channel):
                message = f"channel {channel} needs a licence in most organisations"
                yield Hit("ci.defaults_channel", environment.file, line, message)
    for job in repository.jobs:
        for step in job.steps:
            given = step.input("channels") if step.action_name == SETUP_CONDA else ""
            if any(_is_defaults(channel.strip()) for channel in re.split(r"[,\n]", given)):
                line = step.input_line("channels")
                yield Hit(
                    "ci.defaults_channel", step.file, line, "channels of the set-up step contain defaults"
                )


def _is_defaults(channel: str) -> bool:
    return channel in ("defaults", "anaconda", "pkgs/main") or "repo.anaconda.com" in channel


RULES: tuple[Rule, ...] = (
    environment_made_twice,
    auto_update_conda,
    profiles_edited,
    python_version_conflict,
    pip_beside_environment,
    defaults_channel,
)
