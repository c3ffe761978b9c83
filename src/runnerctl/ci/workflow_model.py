"""What the rules see of a repository: workflows, jobs and steps with their lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from runnerctl.ci.workflow_settings import Settings
from runnerctl.ci.workflow_shell import Command, commands
from runnerctl.ci.workflow_tests import TestFacts
from runnerctl.ci.workflow_yaml import as_list, as_map, key_line, node_line, text_of, value_line

__all__ = ["HOSTED", "Environment", "Job", "Repository", "Step", "Workflow"]

HOSTED = re.compile(
    r"(ubuntu|windows|macos)-(latest|slim|\d+(\.\d+)?)(-(arm|intel|large|xlarge|xl|vs\d+|\d+-cores?))*$"
)
_ALWAYS = re.compile(r"\balways\(\)|!\s*cancelled\(\)")


@dataclass(frozen=True)
class Step:
    """One step. ``action``: it is part of a composite action; ``outer``: the condition of what uses it."""

    file: str
    node: Mapping[str, Any]
    line: int
    default_shell: str = ""
    action: bool = False
    outer: str = ""

    @property
    def uses(self) -> str:
        """The action with its version, or empty."""
        return text_of(self.node.get("uses")).strip()

    @property
    def action_name(self) -> str:
        """The action without its version, lower-cased."""
        return self.uses.partition("@")[0].lower()

    @property
    def run(self) -> str:
        """The script, or empty."""
        return text_of(self.node.get("run"))

    @property
    def run_line(self) -> int:
        """The line of the script's first line."""
        line = value_line(self.node, "run", self.line)
        block = type(self.node.get("run")).__name__ in ("LiteralScalarString", "FoldedScalarString")
        return line + 1 if block else line

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What stands under ``with``."""
        return as_map(self.node.get("with"))

    def input(self, name: str) -> str:
        """An input as text, as the runner hands it on: true and false in lower case."""
        return text_of(self.inputs.get(name))

    def input_line(self, name: str) -> int:
        """The line of an input."""
        return key_line(self.node.get("with"), name, self.line)

    @property
    def condition(self) -> str:
        """``if:`` of the step and of the step that uses its action."""
        return " ".join(filter(None, (text_of(self.node.get("if")), self.outer)))

    @property
    def shell(self) -> str:
        """The shell that runs it: its own, or the default of job or workflow."""
        return text_of(self.node.get("shell")) or self.default_shell

    @property
    def hosted_only(self) -> bool:
        """Whether it runs on GitHub's machines only, or may: a condition in an action cannot be judged."""
        text = self.condition.replace('"', "'")
        if re.search(
            r"runner\.environment\s*!=\s*'self-hosted'|runner\.environment\s*==\s*'github-hosted'", text
        ):
            return True
        return self.action and bool(text)

    @cached_property
    def commands(self) -> tuple[Command, ...]:
        """The commands of its script."""
        return commands(self.run) if self.run else ()

    def at(self, command: Command) -> int:
        """The line of a command in the file."""
        return self.run_line + command.line


@dataclass(frozen=True)
class Job:
    """One job. ``alternatives``: the labels it asks for, a set for each value of its matrix, lower-cased.

    None when an expression that cannot be told decides them.
    """

    file: str
    id: str
    node: Mapping[str, Any]
    line: int
    alternatives: tuple[frozenset[str], ...] | None
    steps: tuple[Step, ...] = ()

    @property
    def name(self) -> str:
        """The name as it stands in the file, or the id."""
        return text_of(self.node.get("name")) or self.id

    @property
    def condition(self) -> str:
        """``if:``, or empty."""
        return text_of(self.node.get("if"))

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the jobs it waits for."""
        return tuple(map(text_of, as_list(self.node.get("needs"))))

    @property
    def calls(self) -> str:
        """The reusable workflow it calls, or empty."""
        return text_of(self.node.get("uses")).strip()

    @property
    def runs_always(self) -> bool:
        """Whether it runs when a job it needs failed or was skipped."""
        return bool(_ALWAYS.search(self.condition))

    @property
    def hosted(self) -> bool:
        """Whether GitHub's standard machines run it."""
        each = self.alternatives or ()
        return bool(each) and all(any(HOSTED.match(label) for label in labels) for labels in each)

    @property
    def self_hosted(self) -> bool:
        """Whether one's own machines run it, for certain."""
        return any("self-hosted" in labels for labels in self.alternatives or ())

    def own_line(self, key: str) -> int:
        """The line of one of its keys."""
        return key_line(self.node, key, self.line)

    def commands(self) -> Iterator[tuple[Step, Command]]:
        """Every command of every step."""
        for step in self.steps:
            for command in step.commands:
                yield step, command

    def programs(self, *names: str) -> list[tuple[Step, Command]]:
        """The commands that run one of these programs."""
        return [(step, command) for step, command in self.commands() if command.program in names]


@dataclass(frozen=True)
class Workflow:
    """One workflow. ``events``: what starts it."""

    file: str
    node: Mapping[str, Any]
    events: Mapping[str, Any]
    jobs: tuple[Job, ...] = ()

    def job(self, name: str) -> Job | None:
        """A job by its id."""
        return next((job for job in self.jobs if job.id == name), None)

    def line(self, key: str) -> int:
        """The line of a key at the top."""
        return key_line(self.node, key, node_line(self.node))


@dataclass(frozen=True)
class Environment:
    """An environment.yml as far as the rules ask. ``specs``: package -> (specification, line)."""

    file: str
    name: str = ""
    channels: tuple[tuple[str, int], ...] = ()
    specs: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    def version(self, package: str) -> str:
        """The version a package is pinned to, as written (``3.11.*``), or empty."""
        match = re.match(r"[=\s]*=?\s*v?(\d[\w.*+!-]*)", self.specs.get(package, ("", 0))[0])
        return match[1] if match else ""


@dataclass(frozen=True)
class Repository:
    """Everything the rules judge. ``fleet``: the labels of each runner there is; None when nobody told.

    ``lines``: the text of each file, by line.
    """

    workflows: tuple[Workflow, ...] = ()
    actions: tuple[Job, ...] = ()
    environments: tuple[Environment, ...] = ()
    settings: Settings = field(default_factory=Settings)
    tests: TestFacts = field(default_factory=TestFacts)
    hooks: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    hooks_file: str = ""
    fleet: tuple[frozenset[str], ...] | None = None
    lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    callable_jobs: frozenset[str] = frozenset()

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Every job of every workflow, then each local action as a job that runs nobody knows where."""
        return tuple(job for workflow in self.workflows for job in workflow.jobs) + self.actions

    @property
    def environment(self) -> Environment | None:
        """The repository's main environment file."""
        return self.environments[0] if self.environments else None
