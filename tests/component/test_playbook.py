"""Playing a playbook for a command: what reaches ansible-playbook, and what an inventory's names may do."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path

import pytest

from runnerctl.cli import playbook
from runnerctl.cli.context import Context
from runnerctl.cli.main import run

HOST = """
runner_hosts:
  hosts:
    {name}: {{ansible_connection: local, github_runner_url: https://github.com/acme,
              github_runner_slots: [{{name: a}}]}}
"""


def context(**env: str) -> Context:
    """A command's surroundings; its stderr is read back."""
    return Context(env=env, stdout=io.StringIO(), stderr=io.StringIO())


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of ansible-playbook: a program that writes down how it was called."""
    program, called = tmp_path / "ansible-playbook", tmp_path / "called"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >{called}\n")
    program.chmod(0o755)
    monkeypatch.setattr(playbook, "ansible_playbook", lambda: str(program))
    return called


def test_no_value_becomes_an_option(command: Path) -> None:
    """Whatever inventory and limit are: they stay in one word with their option."""
    playbook.play(context(), "drain", inventory="--extra-vars,", limit="-eanything")
    assert command.read_text().splitlines()[1:] == ["--inventory=--extra-vars,", "--limit=-eanything"]


def test_no_text_becomes_a_template(command: Path) -> None:
    """A reason is text: Ansible would run a template in it on the controller."""
    reason = "{{ lookup('pipe', 'id') }}"
    given = {"drain_reason": reason, "drain_slots": ["a", reason], "drain_wait": True}
    playbook.play(context(), "drain", inventory="a,", variables=given)
    told = json.loads(command.read_text().splitlines()[-1])
    assert told == {
        "drain_reason": {"__ansible_unsafe": reason},
        "drain_slots": ["a", {"__ansible_unsafe": reason}],
        "drain_wait": True,
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ansible_ends_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """It has a session of its own: nobody else would tell it."""
    program = tmp_path / "ansible-playbook"
    program.write_text('#!/bin/sh\necho "$$ $PPID"\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setattr(playbook, "ansible_playbook", lambda: str(program))
    begun: list[int] = []

    def tell(line: str) -> None:
        begun.append(int(line.split()[0]))
        os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        playbook.play(context(PATH="/usr/bin:/bin"), "drain", inventory="a,", tell=tell)
    assert not Path(f"/proc/{begun[0]}").exists()
    assert signal.getsignal(number) == signal.SIG_DFL


@pytest.mark.exhaustive
def test_a_host_writes_into_the_folder_of_answers_alone(tmp_path: Path) -> None:
    """A host's name may come from a cloud's tags: it is no path."""
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(HOST.format(name=tmp_path / "elsewhere"))
    told = context(PATH="/usr/bin:/bin", HOME=str(tmp_path))
    assert run(["spec", "validate", "-i", str(inventory)], told) == 69
    assert isinstance(told.stderr, io.StringIO)
    assert "may not hold a slash" in told.stderr.getvalue()
    assert [path.name for path in tmp_path.glob("*.json")] == []
