"""The documentation is complete, in step with the code, and its examples could be run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import clean_units
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.env_units import env_units
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.guard_units import (
    guard_service_text,
    guard_socket_text,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.health_units import (
    service_text,
    timer_text,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_containers import engine_templates
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import SlotSpec
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_units import (
    slot_unit_text,
    templates,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_units_ephemeral import (
    ephemeral_templates,
)

from runnerctl.cli.reference import commands
from runnerctl.core.checks import CHECKS
from runnerctl.core.spec import SECTIONS, host_spec, variables
from tests.docs.pages import REFERENCE, ROOT, differing, pages, stale
from tests.docs.schemas import DOCUMENTS
from tests.docs.texts import anchors, links, shell_lines, texts, yaml_blocks

COMMANDS = dict(commands())
NAME = "runnerctl.gpu_runner"
URL = "https://github.com/acme/widgets"
PAGES = texts()
VARIABLE = re.compile(r"\b(?:RUNNERCTL_(?!COMPLETE)[A-Z_]+[A-Z]|GH_TOKEN|GITHUB_TOKEN|NO_COLOR)\b")
SCHEMA = re.compile(r'"(runnerctl\.[\w.-]+/\d+)"')
OURS = re.compile(
    r"/(?:etc|opt|run|usr/local|var/lib)/[\w./@{}-]*(?:runnerctl|gha-|actions-runner|miniforge)[\w./@-]*"
)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _sources(*folders: str) -> Iterator[str]:
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            yield path.read_text()


def test_generated_pages_are_in_step() -> None:
    """`scripts/docs` writes them."""
    wanted = pages()
    assert not differing(wanted), "run scripts/docs"
    assert not stale(wanted), "run scripts/docs"


def test_everything_has_its_page() -> None:
    """Each check, role, module, command and variable."""
    roles = {path.name for path in (ROOT / "roles").iterdir() if path.is_dir()}
    assert roles == set(SECTIONS)
    modules = {path.stem for path in (ROOT / "plugins" / "modules").glob("*.py")}
    wanted = {f"checks/{check.id}.md" for check in CHECKS} | {f"roles/{role}.md" for role in roles}
    wanted |= {f"modules/{module}.md" for module in modules}
    assert not [path for path in wanted if not (REFERENCE / path).is_file()]
    index = (REFERENCE / "roles" / "README.md").read_text()
    assert not [name for name in variables() if f"`{name}`" not in index]
    cli = (REFERENCE / "cli.md").read_text()
    assert not [name for name in COMMANDS if f"\n## {name}\n" not in cli]


def test_every_check_says_what_to_do() -> None:
    """A check's page has a paragraph, a remedy, and where it applies."""
    for check in CHECKS:
        assert len(check.docs) > 60, check.id
        assert check.remedy, check.id
        assert check.when.__doc__, check.id


def test_every_json_document_is_listed() -> None:
    """A schema that the code writes stands in reference/json.md."""
    found = {name for text in _sources("src", "plugins") for name in SCHEMA.findall(text)}
    assert found == set(DOCUMENTS)


def test_every_path_on_a_host_is_listed() -> None:
    """What the code names under /etc, /opt, /run and /var/lib stands in reference/files.md."""
    page = (REFERENCE / "files.md").read_text()
    found = {path for text in _sources("src", "plugins/module_utils") for path in OURS.findall(text)}
    tops = {re.sub(r"[{%].*", "", path).rstrip("./@") for path in found}
    assert not sorted(path for path in tops if path not in page)


def test_every_environment_variable_is_listed() -> None:
    """What the code reads stands in reference/environment.md."""
    page = (REFERENCE / "environment.md").read_text()
    found = {name for text in _sources("src", "plugins") for name in VARIABLE.findall(text)}
    assert found
    assert not sorted(name for name in found if f"`{name}`" not in page)


def test_every_directive_of_the_unit_is_explained() -> None:
    """docs/explanation/unit.md has a row for each line of the units and of a slot's drop-in."""
    page = (ROOT / "docs" / "explanation" / "unit.md").read_text()
    slot = SlotSpec(name="main", runner_name="h-main", url=URL, version="1.2.3", cpus="0-3", tasks=100)
    rich = replace(slot, gpus=("GPU-1",), memory_bytes=1 << 30, containers="rootless", store=True)
    texts = [*templates().values(), *ephemeral_templates().values(), *engine_templates().values()]
    texts += [slot_unit_text(slot), slot_unit_text(rich), timer_text(60), service_text(None)]
    texts += [
        guard_socket_text(),
        guard_service_text(),
        clean_units.timer_text(6),
        clean_units.service_text(),
        *env_units({"ca_bundle": "ca.pem", "https_proxy": "http://p:1"}, credentials=True).values(),
    ]
    lines = "".join(texts).splitlines()
    for line in lines:
        key, equals, value = line.partition("=")
        if not equals or line.startswith("#"):
            continue
        wanted = f"`{key}={value.split('=')[0]}=" if key == "Environment" else f"`{key}="
        assert wanted in page, line


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files exist, and so do the headings."""
    for link in links(page):
        assert link.target.exists(), f"{page.name}: {link.target}"
        if link.anchor:
            assert link.anchor in anchors(link.target), f"{page.name}: {link.target.name}#{link.anchor}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_shell_examples_name_what_exists(page: Path) -> None:
    """Commands, options, playbooks, tags and scripts."""
    for words in shell_lines(page):
        program = words[0].removeprefix(".venv/bin/")
        if program == "runnerctl":
            _check_command(words)
        elif program == "ansible-playbook":
            _check_playbook(words)
        elif program.startswith("scripts/"):
            _check_script(words)


def _check_command(words: list[str]) -> None:
    words = words[: words.index("--")] if "--" in words else words  # the rest is another program's
    depth = next(n for n in (3, 2, 1) if " ".join(["runnerctl", *words[1:n]]) in COMMANDS)
    command = COMMANDS[" ".join(["runnerctl", *words[1:depth]])]
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    options = {word.partition("=")[0] for word in words[depth:] if word.startswith("-") and word != "-"}
    assert options <= known | {"--help"}, words


def _check_playbook(words: list[str]) -> None:
    playbooks = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
    named = [word for word in words[1:] if word.endswith(".yml") or word.startswith(f"{NAME}.")]
    for word in named:
        known = word.removeprefix(f"{NAME}.") in playbooks or (ROOT / word).is_file() or word == "hosts.yml"
        assert known, words
    extra = [words[i + 1].partition("=")[0] for i, word in enumerate(words) if word == "-e"]
    text = "".join(path.read_text() for path in (ROOT / "playbooks").glob("*.yml"))
    assert not [name for name in extra if name not in variables() and name not in text], words
    tags = [words[i + 1] for i, word in enumerate(words) if word in ("--tags", "--skip-tags")]
    assert {tag for each in tags for tag in each.split(",")} <= set(SECTIONS), words


def _check_script(words: list[str]) -> None:
    script = ROOT / words[0]
    assert script.is_file(), words
    text = script.read_text()
    assert not [word for word in words[1:] if word.startswith("--") and word not in text], words


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _mappings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _mappings(each)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_yaml_examples_would_be_accepted(page: Path) -> None:
    """Every mapping with variables of ours is a spec that validates; the URL may come from elsewhere."""
    for block in yaml_blocks(page):
        for mapping in _mappings(block):
            ours = {key: value for key, value in mapping.items() if str(key).startswith(tuple(SECTIONS))}
            if not ours:
                continue
            spec, problems = host_spec("example", {"github_runner_url": URL, **ours})
            assert spec is not None, [problem.line(page.name) for problem in problems]


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "adr").glob("[0-9]*.md")), ids=_name)
def test_every_decision_has_its_parts(page: Path) -> None:
    """Context, decision, consequences, and what would change our mind; listed in the index."""
    wanted = {"context", "decision", "consequences", "what-would-change-our-mind"}
    assert wanted <= anchors(page)
    assert page.name in (page.parent / "README.md").read_text()


def test_every_playbook_that_a_text_names_exists() -> None:
    """A remedy that cannot be followed is none."""
    found = set()
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        found |= set(re.findall(r"\b(\w+) playbook\b", path.read_text().lower()))
    found -= {"a", "the", "same", "every"}
    known = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
    assert "provision" in found
    assert found <= known, f"there is no playbook {found - known}"
