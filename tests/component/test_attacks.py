"""What a hostile or a copied host may say, and what must not follow from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import (
    Layout,
    SlotSpec,
    read_runner_file,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_register import (
    Enrolment,
    _configure,
    refuse_stale,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

from runnerctl.core.plan import LocalSlot
from runnerctl.core.scope import parse_scope
from runnerctl.core.spec import HostSpec, host_spec
from runnerctl.errors import AccessError, ConfigError
from runnerctl.probes.units import parse_journal, running_version
from runnerctl.reconcile import Fleet
from tests.fakes.github_api import GithubApi

TOKEN = "ghp_attacks00000000000000000000000000"
REPO = "/repos/acme/widgets"


@pytest.fixture
def github() -> Iterator[GithubApi]:
    with GithubApi() as server:
        server.control.add_token(TOKEN)
        yield server
        assert server.control.violations() == []


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """Another server, and every Authorization header that reached it."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            heard.append(self.headers.get("Authorization", ""))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    for method in ("GET", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", heard
    server.shutdown()
    server.server_close()


def fleet_of(github: GithubApi, host: str = "gpu-2", *, others: tuple[str, ...] = (), **more: Any) -> Fleet:
    """The fleet of one host with slot a."""
    given = {
        "github_runner_url": f"{github.url}/acme/widgets",
        "github_runner_slots": [{"name": "a"}],
        **more,
    }
    spec, problems = host_spec(host, given)
    assert isinstance(spec, HostSpec), problems
    return Fleet(spec, {"GH_TOKEN": TOKEN}, others=others)


@pytest.mark.parametrize("path", ["/acme/widgets", "/acme/other", "/acme"])
def test_the_credential_never_goes_to_a_server_that_a_host_names(
    github: GithubApi, elsewhere: tuple[str, list[str]], path: str
) -> None:
    """`.runner` says where the slot is registered; the controller asks only servers of its inventory."""
    address, heard = elsewhere
    foreign = github.control.add_runner(REPO, "gpu-9-a")
    fleet = fleet_of(github)
    local = LocalSlot("a", agent_id=foreign["id"], agent_name="gpu-2-a", url=address + path)
    (plan,) = fleet.plans({"a": local})
    with pytest.raises(AccessError, match="does not name"):
        fleet.delete_before(plan)
    with pytest.raises(AccessError, match="does not name"):
        fleet.remove_record(local)
    assert heard == []
    assert github.control.runner(REPO, "gpu-9-a") is not None, "its id meant something on another server"


def test_two_servers_with_the_same_path_are_two_registries(
    github: GithubApi, elsewhere: tuple[str, list[str]]
) -> None:
    """A repository of one name may stand on GitHub and on an Enterprise Server."""
    slots = [{"name": "a"}, {"name": "b", "url": f"{elsewhere[0]}/acme/widgets"}]
    fleet = fleet_of(github, github_runner_slots=slots)
    urls = [fleet.registry(scope.url).client.api_url for scope in fleet.scopes()]
    assert urls == [f"{github.url}/api/v3", f"{elsewhere[0]}/api/v3"]


def test_a_copied_disk_does_not_take_its_origins_record(github: GithubApi) -> None:
    """gpu-2 was cloned from gpu-1, whose runner works: gpu-2 registers, and gpu-1 stays."""
    origin = github.control.add_runner(REPO, "gpu-1-a", status="online")
    copied = LocalSlot(
        "a", agent_id=origin["id"], agent_name="gpu-1-a", url=f"{github.url}/acme/widgets", active=True
    )
    fleet = fleet_of(github, others=("gpu-1", "gpu-2", "gpu"))
    (plan,) = fleet.plans({"a": copied})
    assert plan.registration is not None
    fleet.delete_before(plan)
    fleet.remove_record(copied)
    assert github.control.runner(REPO, "gpu-1-a") is not None


@pytest.mark.parametrize(("host", "others"), [("gpu-1", ("gpu", "gpu-1")), ("new", ("new", "gpu-2"))])
def test_an_own_record_goes_and_a_renamed_hosts_too(
    github: GithubApi, host: str, others: tuple[str, ...]
) -> None:
    """`gpu-1-a` is gpu-1's, though it begins with the name of host gpu; a name that no host has is free."""
    record = github.control.add_runner(REPO, "gpu-1-a")
    local = LocalSlot("a", agent_id=record["id"], url=f"{github.url}/acme/widgets")
    fleet_of(github, host, others=others).remove_record(local)
    assert github.control.runner(REPO, "gpu-1-a") is None


def test_labels_are_written_to_the_record_that_was_planned_for(github: GithubApi) -> None:
    """Whatever id a host reports later, what is written goes to the record that GitHub showed."""
    own = github.control.add_runner(REPO, "gpu-2-a", labels=["by-hand"])
    local = LocalSlot("a", agent_id=own["id"], agent_name="gpu-2-a", url=f"{github.url}/acme/widgets")
    (plan,) = fleet_of(github, github_runner_labels=["big"]).plans({"a": local})
    assert (plan.record, plan.labels) == (own["id"], ("big",))


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"agentId": true}',
        '{"agentId": "7"}',
        '{"agentId": -1}',
        '{"agentId": 1e3}',
        f'{{"agentId": {10**30}}}',
        '{"agentId": 7, "agentName": 5}',
        '{"agentId": 7, "gitHubUrl": ["x"]}',
        "{}",
        "\x00",
    ],
)
def test_a_runner_file_that_makes_no_sense_means_not_registered(tmp_path: Path, content: str) -> None:
    """No traceback, and no value of another type further on."""
    (tmp_path / ".runner").write_text(content)
    assert read_runner_file(tmp_path / ".runner") is None


def test_a_runner_file_that_makes_sense_is_read(tmp_path: Path) -> None:
    """With the byte order mark that the runner writes."""
    data = {"AgentId": 7, "agentName": "h-a", "gitHubUrl": "https://github.com/acme"}
    (tmp_path / ".runner").write_text(json.dumps(data), encoding="utf-8-sig")
    assert read_runner_file(tmp_path / ".runner") == {key.lower(): value for key, value in data.items()}


@pytest.mark.parametrize(
    "url",
    ["http://[", "https://h:99999/acme", "https://h\x1b[31m/acme", "https://a b/acme", "https://\u210e/acme"],
)
def test_a_malformed_url_is_one_clear_error(url: str) -> None:
    """It comes from inventory, or from a host."""
    with pytest.raises(ConfigError):
        parse_scope(url)


class _Idle(System):
    """Systemd is not asked; a job runs when ``works``."""

    def __init__(self, *, works: bool = False) -> None:
        self.works = works

    def busy(self, unit: str) -> bool:
        assert unit == "gha-runner@a.service"
        return self.works


@pytest.mark.parametrize(("seen", "now"), [(0, 5), (7, None), (7, 8)])
def test_a_plan_that_another_run_overtook_is_not_carried_out(seen: int, now: int | None) -> None:
    """Two converges at once: the slower one must not tear down what the faster one registered."""
    slot = SlotSpec("a", runner_name="h-a", url="https://github.com/acme", version="2.336.0")
    with pytest.raises(HostError, match="another run"):
        refuse_stale(_Idle(), slot, Enrolment("t", seen=seen), agent_id=now)


def test_a_slot_that_has_begun_a_job_is_not_registered_again() -> None:
    """It was idle when that was planned."""
    slot = SlotSpec("a", runner_name="h-a", url="https://github.com/acme", version="2.336.0")
    refuse_stale(_Idle(), slot, Enrolment("t", seen=0), agent_id=None)
    with pytest.raises(HostError, match="has begun a job"):
        refuse_stale(_Idle(works=True), slot, Enrolment("t", seen=7), agent_id=7)


def test_an_enrolment_carries_what_the_plan_saw(github: GithubApi) -> None:
    """Else nothing could be compared on the host."""
    local = LocalSlot("a", agent_id=77, agent_name="gpu-2-a", url=f"{github.url}/acme/widgets")
    fleet = fleet_of(github)
    assert fleet.enrolment(fleet.plans({"a": local})[0])["seen"] == 77
    assert fleet.enrolment(fleet.plans({})[0])["seen"] == 0


def test_a_job_cannot_speak_for_the_listener_in_the_journal() -> None:
    """It may write under its unit's name; journald notes the process, and only the unit's main one counts."""
    rows = [
        {"MESSAGE": message, "_PID": pid, "_SYSTEMD_UNIT": "gha-runner@a.service", "__CURSOR": str(at)}
        | {"__REALTIME_TIMESTAMP": str(1_800_000_000_000_000 + at)}
        for at, (pid, message) in enumerate(
            [
                ("100", "Current runner version: '2.336.0'"),
                ("100", "Runner connect error: x. Retrying"),
                ("777", "Current runner version: '9.9.9'"),
                ("777", "Listening for Jobs"),
            ]
        )
    ]
    text = "\n".join(map(json.dumps, rows))
    told = parse_journal([text], {}, pids={"a": 100})["a"]
    assert [line.message for line in told][-1].startswith("Runner connect error")
    assert running_version(told) == "2.336.0"
    assert running_version(parse_journal([text], {}, pids={"a": 0})["a"]) == "9.9.9", "no process to go by"


def test_systemd_finds_no_variable_in_what_the_runner_is_told() -> None:
    """systemd-run replaces $HOME and ${PATH} in the words of a command."""
    slot = SlotSpec(
        "a",
        runner_name="h-a",
        url="https://github.com/acme",
        version="2.336.0",
        labels=("a$HOME", "b${PATH}"),
    )
    words = _configure(Layout(), slot, replace=False)
    assert words[words.index("--labels") + 1] == "a$$HOME,b$${PATH}"


@pytest.mark.parametrize("value", ["a\nB=c", "a\rb", "a\x00b", "a\x1b[2J"])
def test_a_control_character_never_reaches_the_runners_environment(value: str) -> None:
    """A line of `.env` more, or a listener that does not start."""
    spec, problems = host_spec(
        "h", {"github_runner_url": "https://github.com/acme", "github_runner_env": {"A": value}}
    )
    assert spec is None
    assert [problem.variable for problem in problems] == ["github_runner_env.A"]
