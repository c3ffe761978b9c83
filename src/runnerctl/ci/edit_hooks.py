"""The pre-commit configuration: black, ruff and mypy from the environment itself. Needs the extra ``ci``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from runnerctl.ci.edit_yaml import add_items, block_list, document

__all__ = ["Hook", "edit_hooks", "hooks_for"]

HEAD = """\
# Hooks are the environment's own tools (language: system): one set of versions for you, pre-commit and CI.
repos:
"""


class Hook(NamedTuple):
    """A hook of a tool; ``whole``: it is run once, without names of files."""

    id: str
    entry: str
    whole: bool = False


def hooks_for(mypy_paths: Sequence[str]) -> tuple[Hook, ...]:
    """The three hooks; mypy gets ``mypy_paths`` where its settings name no files."""
    return (
        Hook("black", "black"),
        Hook("ruff", "ruff check --force-exclude"),
        Hook("mypy", " ".join(["mypy", *mypy_paths]), whole=True),
    )


def edit_hooks(text: str | None, where: str, hooks: Sequence[Hook]) -> tuple[str, list[str]]:
    """The file with the hooks that it lacks, and notes. Raises DataError for what is no YAML mapping."""
    if text is None or not text.strip():
        return HEAD + "\n".join("  " + line for line in _block(hooks)) + "\n", []
    content = document(text, where)
    repos = content.get("repos")
    present = dict(_present(repos))
    own = {hook.id for hook in hooks}
    notes = [
        f"{name} comes from {repo}, not from the environment"
        for name, repo in present.items()
        if repo and name in own
    ]
    missing = [hook for hook in hooks if hook.id not in present]
    if not missing:
        return text, notes
    if not block_list(repos):
        names = ", ".join(hook.id for hook in missing)
        return text, [*notes, f"has no list of repos that can be added to: add the hooks {names} yourself"]
    after = add_items(text, repos, _block(missing))
    if document(after, where).get("repos")[: len(repos)] != list(repos):
        return text, [*notes, "cannot be edited as it is laid out: add the hooks yourself"]
    return after, notes


def _present(repos: Any) -> Iterator[tuple[str, str]]:
    """Each tool that has a hook, and where it comes from: empty for the environment."""
    for repo in repos if isinstance(repos, list) else ():
        if not isinstance(repo, dict) or not isinstance(repo.get("hooks"), list):
            continue
        for hook in repo["hooks"]:
            if not isinstance(hook, dict):
                continue
            name, words = str(hook.get("id", "")), str(hook.get("entry", "")).split()
            own = repo.get("repo") == "local" and hook.get("language") in ("system", "unsupported")
            source = "" if own else str(repo.get("repo"))[:200]
            tool = {"ruff-check": "ruff", "black-jupyter": "black"}.get(name, name)
            tools = {tool, *(word for word in words[:1] + words[2:3] if word in ("black", "ruff", "mypy"))}
            if "format" in words[1:2]:  # `ruff format` is another tool
                tools.discard("ruff")
            yield from ((each, source) for each in sorted(tools))


def _block(hooks: Sequence[Hook]) -> list[str]:
    lines = ["- repo: local", "  hooks:"]
    for hook in hooks:
        last = "pass_filenames: false" if hook.whole else "require_serial: true"
        lines += [f"    - id: {hook.id}", f"      name: {hook.id}", f"      entry: {hook.entry}"]
        lines += ["      language: system", "      types_or: [python, pyi]", f"      {last}"]
    return lines
