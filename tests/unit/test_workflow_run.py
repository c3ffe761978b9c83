"""Workflows run without GitHub as the runner would run them: expressions, environment, order, artifacts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.workflows.expressions import Expressions
from tests.workflows.plan import Workflow, artifacts
from tests.workflows.steps import Job

CONTEXTS: dict[str, Any] = {
    "github": {"event_name": "push", "event": {"pull_request": {"number": 7}}},
    "needs": {"cpu": {"result": "failure"}},
}
WORKFLOW = """
jobs:
  last:
    needs: [first]
    if: always()
    runs-on: here
    steps:
      - uses: actions/download-artifact@0123
        with: {pattern: data-*, merge-multiple: "true", path: got}
      - run: cat got/.hidden
  first:
    runs-on: here
    env: {WHO: "${{ github.repository }}"}
    steps:
      - uses: actions/checkout@0123
      - uses: ./.github/actions/greet
        id: greet
        with: {name: "you"}
      - {run: 'test "$(echo $FROM_ACTION)" = "a b" && command -v tool', shell: bash}
      - run: printf '%s' "$TEXT" > .hidden
        env: {TEXT: "${{ steps.greet.outputs.said }} of ${{ env.WHO }}"}
      - uses: actions/upload-artifact@0123
        with: {name: data-1, path: .hidden, include-hidden-files: "true", if-no-files-found: error}
      - run: exit 3
      - run: echo never
      - if: failure()
        run: echo "it failed"
"""
ACTION = """
inputs: {name: {required: true}}
outputs: {said: {value: "${{ steps.say.outputs.text }}"}}
runs:
  using: composite
  steps:
    - id: say
      shell: bash
      env: {NAME: "${{ inputs.name }}"}
      run: |
        echo "text=hello $NAME" >>"$GITHUB_OUTPUT"
        printf 'FROM_ACTION<<END\\na\\nb\\nEND\\n' >>"$GITHUB_ENV"
        mkdir -p "$RUNNER_TEMP/bin"
        printf '#!/bin/sh\\n' >"$RUNNER_TEMP/bin/tool"
        chmod +x "$RUNNER_TEMP/bin/tool"
        echo "$RUNNER_TEMP/bin" >>"$GITHUB_PATH"
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("github.event_name == 'PUSH'", True),
        ("github.event.pull_request.number != 7", False),
        ("github.event.nothing.there", None),
        ("!(needs.cpu.result == 'success') && 'no' || 'yes'", "no"),
        ("contains('a,b', 'B') && startsWith('runner', 'run')", True),
    ],
)
def test_expressions(text: str, value: Any) -> None:
    """Texts are compared without case; what is not there is null."""
    assert Expressions(CONTEXTS).value(text) == value


def test_conditions_ask_for_success_unless_they_say_else() -> None:
    """As GitHub does: after a failure only what asks for the status runs."""
    failed = Expressions(CONTEXTS, status="failure")
    assert not failed.holds("github.event_name == 'push'")
    assert failed.holds("${{ always() }}")
    assert failed.holds("failure() && github.event_name == 'push'")
    with pytest.raises(ValueError, match="no context 'secrets'"):
        failed.value("secrets.TOKEN")


def test_a_workflow_from_end_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Order by needs, composite actions, files for environment, path and outputs, artifacts, failures."""
    repository = tmp_path / "repository"
    for name, text in ((".github/workflows/ci.yml", WORKFLOW), (".github/actions/greet/action.yml", ACTION)):
        path = repository / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    workflow = Workflow(repository)
    assert workflow.order() == ["first", "last"]
    with artifacts("127.0.0.1") as (address, kept):
        for name in workflow.order():
            assert workflow.is_due(name)
            plan = json.loads(workflow.plan(name, repository=str(repository), artifacts=address))
            job = Job(plan, tmp_path / name)
            workflow.results[name] = job.run()
    assert workflow.results == {"first": "failure", "last": "success"}
    assert kept == {"data-1/.hidden": b"hello you of acme/widgets"}
    said = capfd.readouterr().out
    assert "it failed" in said
    assert "never\n" not in said.replace("echo never", "")
