"""Every command explains itself, and the reference page says what the code says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runnerctl.cli.app import TABLE
from runnerctl.cli.reference import commands, help_text, markdown

ROOT = Path(__file__).parents[2]
COMMANDS = dict(commands())
LEAVES = {name: command for name, command in COMMANDS.items() if not getattr(command, "commands", None)}


def test_the_list_of_commands_is_complete() -> None:
    """What is promised."""
    promised = ["register", "unregister", "restart", "drain", "resume", "list", "health", "snapshot", "logs"]
    promised += ["spec show", "spec validate", "auth status"]
    promised += ["xid", "baseline save", "baseline show", "baseline clear"]
    promised += ["upgrade", "adopt", "fleet", "doctor", "prune", "keepalive", "bundle"]
    promised += ["labels add", "labels remove", "labels set", "labels sync"]
    promised += ["slots plan", "slots apply", "isolation verify", "isolation devices"]
    promised += ["jobs", "clean", "guard", "mint"]
    promised += ["env ensure", "env exec", "env export-activation", "env list", "env lock", "env verify"]
    promised += ["env gc", "env serve", "ci init", "ci check", "ci protect"]
    promised += ["group list", "group create", "group move"]
    assert sorted(LEAVES) == sorted(f"runnerctl {name}" for name in promised)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_fits(name: str) -> None:
    """Each help ends in an example that begins with the command, within 80 columns, in plain ASCII."""
    text = help_text(name, COMMANDS[name])
    body, _, example = text.partition("\nExample:\n")
    assert example and name in example
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.isascii() and "\x1b" not in text
    assert body.startswith(f"Usage: {name}")
    assert COMMANDS[name].help.split("\n")[0].endswith(".")


# These have no answer: two run until they are stopped, one becomes another command.
SERVICES = {"runnerctl guard", "runnerctl env serve", "runnerctl env exec"}


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_takes_output_and_explains_its_options(name: str) -> None:
    """`-o text|json` everywhere; no option without a word about it."""
    params: dict[str, Any] = {param.name: param for param in LEAVES[name].params}
    assert name in SERVICES or params["output"].opts == ["--output", "-o"]
    assert all(param.help for param in params.values())


@pytest.mark.parametrize("name", TABLE)
def test_short_help_is_the_first_line_of_the_help(name: str) -> None:
    """The table of commands is read without loading them; it must not drift."""
    assert COMMANDS[f"runnerctl {name}"].help.split("\n")[0] == TABLE[name].short_help


def test_examples_are_command_lines_that_parse() -> None:
    """No example uses an option that is not there."""
    for name, command in LEAVES.items():
        known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
        lines = [line for line in command.epilog.strip().splitlines() if f"{name} " in f"{line} "]
        for line in lines:
            words = line.partition(name)[2].split(">")[0].split(" -- ")[0].split()
            assert {word for word in words if word.startswith("-") and word != "-"} <= known, line


def test_the_reference_page_is_in_step() -> None:
    """`scripts/docs` makes it."""
    page = ROOT / "docs/reference/cli.md"
    assert page.read_text() == markdown(), "run scripts/docs"
