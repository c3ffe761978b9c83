"""GitHub as one host's slots see it, against the stand-in: releases, access, waiting, removal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.action.github_runner import sweep_all

from runnerctl.core.plan import LocalSlot
from runnerctl.core.scope import parse_scope
from runnerctl.core.sections import GithubRunner
from runnerctl.core.spec import HostSpec, host_spec
from runnerctl.errors import AccessError, ConfigError, DataError, TryAgainError
from runnerctl.github.models import RunnerDownload
from runnerctl.reconcile import Fleet, desired_slot
from runnerctl.runner_release import choose_release
from tests.fakes.github_api import Control, GithubApi

TOKEN = "ghp_reconcile00000000000000000000000"
OLD, NEW = "2.335.0", "2.336.0"
SUM, OTHER = "a" * 64, "b" * 64
ORG, REPO = "/orgs/acme", "/repos/acme/widgets"


@pytest.fixture(scope="module")
def github() -> Iterator[GithubApi]:
    with GithubApi() as server:
        yield server


@pytest.fixture
def control(github: GithubApi) -> Iterator[Control]:
    """The desk, empty but for a release for both architectures; no test breaks GitHub's description."""
    desk = github.control
    desk.reset()
    desk.add_token(TOKEN)
    publish(desk, NEW)
    yield desk
    assert desk.violations() == []


def publish(control: Control, version: str, *, downloads: bool = True, **fields: Any) -> None:
    """A release for x64 and arm64, each with a sum of its own."""
    sums = {"x64": SUM, "arm64": OTHER}
    assets = {
        name: {"sha256": value, "download_url": f"https://github.com/dl/{name}-{version}.tar.gz", **fields}
        for name, value in sums.items()
    }
    control.release(version, architectures=assets, downloads=downloads)


@dataclass
class Time:
    """A clock that only sleeping moves; ``at`` runs what a test wants to happen at a pause."""

    seconds: float = 0.0
    pauses: list[float] = field(default_factory=list)
    at: dict[int, Any] = field(default_factory=dict)

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.pauses.append(seconds)
        self.at.get(len(self.pauses), lambda: None)()


def spec_of(github: GithubApi, **variables: Any) -> HostSpec:
    """The spec of host h1, at an organisation unless said otherwise."""
    slots = [{"name": "a"}, {"name": "b"}]
    given = {"github_runner_url": f"{github.url}/acme", "github_runner_slots": slots, **variables}
    spec, problems = host_spec("h1", given)
    assert spec is not None, problems
    return spec


def fleet_of(github: GithubApi, *, time: Time | None = None, token: str = TOKEN, **variables: Any) -> Fleet:
    """The fleet of that host."""
    time = time or Time()
    return Fleet(spec_of(github, **variables), {"GH_TOKEN": token}, sleep=time.sleep, clock=time)


# -- the release -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "label", "sha256"), [("x86_64", "x64", SUM), ("aarch64", "arm64", OTHER)]
)
def test_the_release_is_what_github_expects_for_the_architecture(
    github: GithubApi, control: Control, machine: str, label: str, sha256: str
) -> None:
    """Version, address and sum of the host's own architecture, from two sources."""
    release = fleet_of(github).release(machine)
    assert (release.version, release.sha256, release.token) == (NEW, sha256, None)
    assert release.url == f"https://github.com/dl/{label}-{NEW}.tar.gz"
    assert len(control.requests(path="/repos/actions/runner/releases")) == 1


def test_an_unknown_architecture_and_one_without_offer_are_refused(
    github: GithubApi, control: Control
) -> None:
    """Each with what is missing."""
    with pytest.raises(ConfigError, match="architecture 'riscv64' is not supported"):
        fleet_of(github).release("riscv64")
    control.release("2.400.0", architectures={"x64": {"sha256": SUM, "download_url": "https://x"}})
    with pytest.raises(DataError, match="GitHub offers no runner for linux-arm64"):
        fleet_of(github).release("aarch64")


@pytest.mark.parametrize("name", ["runner.tar.gz", "actions-runner-linux-x64-../../etc.tar.gz"])
def test_an_offer_that_names_no_version_is_refused(name: str) -> None:
    """The version is the name of a directory on every host."""
    offer = RunnerDownload("linux", "x64", filename=name, download_url="https://ghe.example/x")
    with pytest.raises(DataError, match="names no version"):
        choose_release(
            GithubRunner(),
            "x86_64",
            scope=lambda: parse_scope("https://ghe.example/acme"),
            downloads=lambda: [offer],
            digest=lambda *_: SUM,
        )


def test_an_installed_release_needs_one_source_and_no_second_request(
    github: GithubApi, control: Control
) -> None:
    """What the host has was verified when it came."""
    fleet = fleet_of(github)
    assert fleet.release("x86_64", installed=[NEW]).sha256 == SUM
    assert control.requests(path="/repos/actions/runner/releases") == []


def test_two_sources_that_disagree_are_refused(github: GithubApi, control: Control) -> None:
    """Both sums are named."""
    publish(control, NEW, digest=f"sha256:{'c' * 64}", body_sha256="c" * 64)
    with pytest.raises(DataError, match="two sources disagree") as caught:
        fleet_of(github).release("x86_64")
    assert SUM in str(caught.value)
    assert "c" * 64 in str(caught.value)


def test_a_pin_without_a_sum_takes_the_releases_own(github: GithubApi, control: Control) -> None:
    """Another version than GitHub offers: its public address, and the sum of its page."""
    publish(control, OLD, downloads=False)
    release = fleet_of(github, github_runner_version=OLD).release("aarch64")
    assert (release.version, release.sha256) == (OLD, OTHER)
    name = f"actions-runner-linux-arm64-{OLD}.tar.gz"
    assert release.url == f"https://github.com/actions/runner/releases/download/v{OLD}/{name}"


def test_a_pin_with_a_sum_must_agree_with_what_github_says(github: GithubApi, control: Control) -> None:
    """The pinned sum is one of the two sources."""
    pin: dict[str, Any] = {"github_runner_version": NEW}
    assert fleet_of(github, **pin, github_runner_sha256=SUM).release("x86_64").sha256 == SUM
    with pytest.raises(DataError, match="two sources disagree"):
        fleet_of(github, **pin, github_runner_sha256=OTHER).release("x86_64")
    assert control.requests(path="/repos/actions/runner/releases") == []


def test_a_full_pin_asks_nobody(github: GithubApi, control: Control) -> None:
    """Version, sum and address given: an air-gapped site."""
    release = fleet_of(
        github,
        github_runner_version=OLD,
        github_runner_sha256=SUM,
        github_runner_download_url="https://mirror.example/{version}/{architecture}.tgz",
    ).release("aarch64")
    assert release.url == f"https://mirror.example/{OLD}/arm64.tgz"
    assert control.counts() == (0, 0)


def test_a_server_without_the_releases_page_has_one_source(github: GithubApi, control: Control) -> None:
    """GitHub Enterprise Server knows only its own offer; without a sum there the pin is asked for."""
    control.fault("hidden", path="/repos/actions/runner/releases")
    assert fleet_of(github).release("x86_64").sha256 == SUM
    with pytest.raises(DataError, match="pin github_runner_version and github_runner_sha256"):
        fleet_of(github, github_runner_version=OLD).release("x86_64")


def test_the_servers_download_token_goes_to_the_servers_file_only(
    github: GithubApi, control: Control
) -> None:
    """Not to a mirror, and not to github.com for a pinned version."""
    publish(control, OLD, downloads=False)
    application = {
        "os": "linux",
        "architecture": "x64",
        "filename": f"actions-runner-linux-x64-{NEW}.tar.gz",
        "download_url": f"{github.url}/server/{NEW}.tar.gz",
        "sha256_checksum": SUM,
        "temp_download_token": "the-servers-own",
    }
    control.document(f"{ORG}/actions/runners/downloads", [application])
    assert fleet_of(github).release("x86_64").token == "the-servers-own"
    mirror = "https://mirror.example/{version}"
    assert fleet_of(github, github_runner_download_url=mirror).release("x86_64").token is None
    assert fleet_of(github, github_runner_version=OLD).release("x86_64").token is None


# -- access ------------------------------------------------------------------------------------------------


def test_without_a_credential_nothing_is_asked(github: GithubApi, control: Control) -> None:
    """The error names the scope and the variables."""
    fleet = Fleet(spec_of(github), {})
    with pytest.raises(AccessError, match="acme: there is no GitHub credential; set GH_TOKEN"):
        fleet.prove_access(register=[])
    assert control.counts() == (0, 0)


def test_reading_is_proved_for_all_and_writing_for_those_to_register(
    github: GithubApi, control: Control
) -> None:
    """A token that may only read is enough for a converged host."""
    reader = control.add_token(
        "github_pat_" + "r" * 40, permissions={"organization_self_hosted_runners": "read"}
    )
    fleet_of(github, token=reader).prove_access(register=[])
    with pytest.raises(AccessError, match=r"(?i)self.hosted.runners"):
        fleet_of(github, token=reader).prove_access(register=["a"])
    assert control.secrets("registration") == []


def test_one_registration_token_serves_all_slots_of_a_scope(github: GithubApi, control: Control) -> None:
    """Three slots, two scopes: two tokens."""
    slots = [{"name": "a"}, {"name": "b"}, {"name": "c", "url": f"{github.url}/acme/widgets"}]
    fleet = fleet_of(github, github_runner_slots=slots)
    fleet.prove_access(register=["a", "b", "c"])
    fleet.prove_access(register=["a", "b", "c"])
    assert len(control.secrets("registration")) == 2
    assert fleet.calls()["writes"] == 2


def test_a_group_is_looked_up_once_and_a_missing_one_refused(github: GithubApi, control: Control) -> None:
    """With the names there are; before any token is minted."""
    made = control.add_group(ORG, "gpu")
    fleet = fleet_of(github, github_runner_group="GPU")
    fleet.prove_access(register=["a", "b"])
    assert [plan.registration is not None for plan in fleet.plans({})] == [True, True]
    assert len(control.requests(path=f"{ORG}/actions/runner-groups")) == 1
    assert fleet.group_id(fleet.spec.github_runner.slots[0]) == made["id"]
    before = len(control.secrets("registration"))
    with pytest.raises(ConfigError, match="no runner group 'cpu'; it has Default, gpu"):
        fleet_of(github, github_runner_group="cpu").prove_access(register=["a"])
    assert len(control.secrets("registration")) == before


# -- plans -------------------------------------------------------------------------------------------------


def local_of(control: Control, github: GithubApi, name: str, **fields: Any) -> LocalSlot:
    """A slot of h1 with a record on GitHub, as the host reports it."""
    record = control.add_runner(ORG, f"h1-{name}", status="online", **fields)
    return LocalSlot(name, agent_id=record["id"], agent_name=f"h1-{name}", url=f"{github.url}/acme")


def test_a_converged_fleet_costs_one_request_a_slot_however_many_runners_there_are(
    github: GithubApi, control: Control
) -> None:
    """250 others in the scope make no difference; the scope's default group is asked for once."""
    control.add_runners(ORG, 250)
    local = {name: local_of(control, github, name) for name in "ab"}
    control.clear_requests()
    fleet = fleet_of(github)
    assert [plan.changes for plan in fleet.plans(local)] == [False, False]
    assert control.counts() == (3, 0)
    assert fleet.calls() == {"requests": 3, "writes": 0}


def test_without_a_named_group_a_runner_goes_back_to_the_default_one(
    github: GithubApi, control: Control
) -> None:
    """Somebody moved it by hand: that is drift too."""
    group = control.add_group(ORG, "elsewhere")
    local = {"a": local_of(control, github, "a")}
    control.change_runner(local["a"].agent_id or 0, group_id=group["id"])
    fleet = fleet_of(github, github_runner_slots=[{"name": "a"}])
    [plan] = fleet.plans(local)
    assert plan.move_to_group == 1
    fleet.write(plan)
    assert not any(
        plan.changes for plan in fleet_of(github, github_runner_slots=[{"name": "a"}]).plans(local)
    )


def test_labels_and_group_are_repaired_by_one_write_each(github: GithubApi, control: Control) -> None:
    """A PUT of the labels and a PUT into the group, and then nothing more."""
    group = control.add_group(ORG, "gpu")
    local = local_of(control, github, "a", labels=["by-hand"])
    how: dict[str, Any] = {
        "github_runner_group": "gpu",
        "github_runner_labels": ["Big"],
        "github_runner_slots": [{"name": "a"}],
    }
    fleet = fleet_of(github, **how)
    (plan,) = fleet.plans({"a": local})
    assert plan.record == local.agent_id
    fleet.write(plan)
    methods = [
        (call["method"], call["path"].rsplit("/actions/", 1)[1]) for call in control.requests(kind="api")
    ]
    assert methods[-2:] == [
        ("PUT", f"runners/{local.agent_id}/labels"),
        ("PUT", f"runner-groups/{group['id']}/runners/{local.agent_id}"),
    ]
    assert not fleet_of(github, **how).plans({"a": local})[0].changes


def test_a_slot_that_moves_leaves_nothing_at_the_old_place(github: GithubApi, control: Control) -> None:
    """The record of the other scope is deleted before the new registration."""
    local = local_of(control, github, "a")
    slots = [{"name": "a", "url": f"{github.url}/acme/widgets"}]
    fleet = fleet_of(github, github_runner_slots=slots)
    (plan,) = fleet.plans({"a": local})
    fleet.delete_before(plan)
    assert control.runners() == []
    assert fleet.enrolment(plan)["token"] == fleet.token(f"{github.url}/acme/widgets")


def test_the_environment_of_a_slot_says_where_conda_is(github: GithubApi) -> None:
    """Only where the toolkit manages it; inventory has the last word."""
    spec = spec_of(github, github_runner_env={"A": "1"})
    assert desired_slot(spec, spec.github_runner.slots[0], NEW)["env"] == {
        "CONDA": "/opt/miniforge3",
        "A": "1",
    }
    spec = spec_of(github, conda_manage=False, github_runner_env={"CONDA": "/x"})
    assert desired_slot(spec, spec.github_runner.slots[0], NEW)["env"] == {"CONDA": "/x"}


# -- waiting -----------------------------------------------------------------------------------------------


def test_waiting_for_online_ends_when_all_are_or_the_time_is_over(
    github: GithubApi, control: Control
) -> None:
    """Who is online is not asked again; a record that is gone counts as offline."""
    agents = {name: control.add_runner(ORG, f"h1-{name}")["id"] for name in "ab"}
    time = Time()
    time.at[2] = lambda: control.change_runner(agents["a"], status="online")
    states = fleet_of(github, time=time).wait_online(agents, seconds=10)
    assert states == {"a": "online", "b": "offline"}
    assert time.seconds == 10
    asked = [call["path"] for call in control.requests(kind="api")]
    assert sum(path.endswith(f"/{agents['a']}") for path in asked) == 3
    control.delete_runner(agents["b"])
    assert fleet_of(github).wait_online({"b": agents["b"]}, seconds=0) == {"b": "offline"}


# -- removal -----------------------------------------------------------------------------------------------


def test_a_busy_runner_is_not_deleted_and_says_so(github: GithubApi, control: Control) -> None:
    """At once without a deadline, after it with one; the record stays."""
    local = local_of(control, github, "a", busy=True)
    with pytest.raises(TryAgainError, match="slot a: runs a job"):
        fleet_of(github).remove_record(local)
    time = Time()
    with pytest.raises(TryAgainError, match="slot a: still runs a job after 12 s"):
        fleet_of(github, time=time).remove_record(local, seconds=12)
    assert time.seconds == 12
    assert len(control.runners()) == 1


def test_draining_removes_each_slot_as_soon_as_it_is_idle(github: GithubApi, control: Control) -> None:
    """An idle slot is not left open for new jobs while another one works; the deadline is for all."""
    idle, busy, stuck = (local_of(control, github, name, busy=name != "a") for name in "abc")
    assert busy.agent_id is not None
    time = Time()
    names: list[list[str]] = []

    def ends() -> None:
        names.append(sorted(runner["name"] for runner in control.runners()))
        control.change_runner(busy.agent_id or 0, busy=False)

    time.at[1] = ends
    assert fleet_of(github, time=time).drain([idle, busy, stuck], seconds=12) == ["c"]
    assert names == [["h1-b", "h1-c"]]
    assert [runner["name"] for runner in control.runners()] == ["h1-c"]
    assert time.seconds == 12


def test_a_record_that_is_gone_already_is_no_error(github: GithubApi, control: Control) -> None:
    """Nor is a slot that was never registered, which asks GitHub nothing."""
    local = local_of(control, github, "a")
    control.delete_runner(local.agent_id or 0)
    fleet_of(github).remove_record(local)
    control.clear_requests()
    fleet_of(github).remove_record(LocalSlot("b", url=f"{github.url}/acme"))
    assert control.counts() == (0, 0)


def test_an_adopted_slot_takes_no_other_runners_record_along(github: GithubApi, control: Control) -> None:
    """A job may have written the id of somebody else's runner before it was adopted."""
    mine, other = (control.add_runner(ORG, name, status="offline") for name in ("box-a", "deploy"))
    local = LocalSlot("a", url=f"{github.url}/acme", agent_name="box-a", adopted=True)
    for record in (other, mine):
        fleet_of(github).remove_record(msgspec.structs.replace(local, agent_id=record["id"]))
    assert control.runner(ORG, "deploy") is not None
    assert control.runner(ORG, "box-a") is None


@pytest.mark.parametrize(("status", "left"), [("offline", 0), ("online", 1)])
def test_what_a_cut_off_registration_left_is_found_by_name(
    github: GithubApi, control: Control, status: str, left: int
) -> None:
    """The host never learnt the id; an online record of that name is somebody else's."""
    control.add_runner(ORG, "h1-a", status=status)
    cut_off = LocalSlot("a", agent_name="h1-a", url=f"{github.url}/acme", registering=True)
    fleet_of(github).remove_record(cut_off)
    assert len(control.runners()) == left


def test_the_records_of_a_dead_host_are_removed_by_name(github: GithubApi, control: Control) -> None:
    """Its own only; asked twice there is nothing left; in check mode they are only named."""
    control.add_runners(ORG, 3)
    for name in "ab":
        control.add_runner(ORG, f"h1-{name}")
    assert fleet_of(github).remove_dead(check=True) == ["h1-a", "h1-b"]
    assert len(control.runners()) == 5
    assert fleet_of(github).remove_dead() == ["h1-a", "h1-b"]
    assert len(control.runners()) == 3
    assert fleet_of(github).remove_dead() == []


def test_a_host_with_an_online_runner_is_not_dead(github: GithubApi, control: Control) -> None:
    """Nothing is removed, not even the record that is offline."""
    control.add_runner(ORG, "h1-a")
    control.add_runner(ORG, "h1-b", status="online")
    with pytest.raises(ConfigError, match="h1-b is online: the host is not dead; deprovision it without"):
        fleet_of(github).remove_dead()
    assert len(control.runners()) == 2


def test_a_persistent_slot_where_strangers_send_jobs_is_refused(github: GithubApi, control: Control) -> None:
    """A public repository, or a group that lets one in, unless it is named; no token is minted for it."""
    control.settings(public_repositories=["Acme/Widgets"])
    there: dict[str, Any] = {"github_runner_url": f"{github.url}/acme/widgets"}
    with pytest.raises(
        ConfigError, match=r"acme/widgets is public.*github_runner_allow_public: \[acme/widgets\]"
    ):
        fleet_of(github, **there).prove_access(register=["a"])
    fleet = fleet_of(github, **there)
    with pytest.raises(ConfigError, match="is public"):
        fleet.enrolment(fleet.plans({})[0])
    fleet_of(github, **there, github_runner_allow_public=["ACME/widgets"]).prove_access(register=["a"])
    made = control.add_group(ORG, "open", allows_public_repositories=True)
    with pytest.raises(ConfigError, match="runner group 'open' of acme allows public ones"):
        fleet_of(github, github_runner_group="open").prove_access(register=["a"])
    fleet_of(github, github_runner_group="open", github_runner_allow_public=["acme"]).prove_access(
        register=["a"]
    )
    fleet_of(github).prove_access(register=["a"])
    assert made


def test_what_a_copied_disk_names_is_another_hosts(github: GithubApi, control: Control) -> None:
    """Its ephemeral slots bear the names of the host it was copied from, which mints under them."""
    fleet = Fleet(spec_of(github), {"GH_TOKEN": TOKEN}, others=["origin-1"])
    names = ("origin-1-a", f"{fleet.spec.host}-a")
    for name in names:
        control.add_runner(ORG, name, status="offline", ephemeral=True)
    url = f"{github.url}/acme"
    sweep_all(fleet, [LocalSlot("a", mode="ephemeral", agent_name=name, url=url) for name in names])
    assert [each["name"] for each in control.runners(ORG)] == ["origin-1-a"]
