"""What is refused before the first change, from what a host reports."""

from __future__ import annotations

from typing import Any

import pytest

from runnerctl.core.driver_structs import DriverFacts, InstalledDriver
from runnerctl.core.labels import ARCHITECTURES
from runnerctl.core.preflight import (
    BUILDER_BYTES,
    CLI_BYTES,
    CONDA_BYTES,
    DRIVER_BYTES,
    RELEASE_BYTES,
    SUPPORTED,
    HostFacts,
    host_problems,
    schema_problem,
)
from runnerctl.core.spec import SCHEMA, HostSpec, host_spec

GIB = 1 << 30


def facts(**changes: Any) -> HostFacts:
    """A bare Debian 12 host with room for everything."""
    bare: dict[str, Any] = {"os_id": "debian", "os_version": "12", "machine": "x86_64", "uid": 0}
    return HostFacts(**{**bare, "systemd": True, "free_bytes": 10 * GIB, **changes})


def spec(**variables: Any) -> HostSpec:
    """A host with one slot."""
    made, problems = host_spec("h1", {"github_runner_url": "https://github.com/acme", **variables})
    assert made is not None, problems
    return made


def refusals(given: HostFacts, **variables: Any) -> list[str]:
    """The problems as a user reads them."""
    return [problem.line("h1") for problem in host_problems(spec(**variables), given)]


def test_a_good_host_has_no_problem() -> None:
    """The plain case."""
    assert refusals(facts()) == []


@pytest.mark.parametrize("machine", ["aarch64", "arm64"])
def test_an_arm64_host_is_as_good(machine: str) -> None:
    """Both spellings of `uname -m`."""
    assert refusals(facts(machine=machine)) == []
    assert ARCHITECTURES[machine] == "arm64"


@pytest.mark.parametrize("machine", ["armv7l", "riscv64", "i686", ""])
def test_any_other_architecture_is_refused(machine: str) -> None:
    """With those that are supported."""
    expected = f"h1: architecture: {machine!r} is not supported; use an x86_64 or aarch64 host"
    assert refusals(facts(machine=machine)) == [expected]


@pytest.mark.parametrize(
    ("name", "version"),
    [(name, version) for name, versions in SUPPORTED.items() for version in versions]
    + [("rocky", "9.6"), ("rhel", "9.7"), ("almalinux", "9.5")],
)
def test_a_supported_distribution_passes(name: str, version: str) -> None:
    """Enterprise Linux by its first number, Ubuntu by the whole of it."""
    assert refusals(facts(os_id=name, os_version=version)) == []


@pytest.mark.parametrize(
    ("name", "version", "shown"),
    [
        ("debian", "11", "debian 11"),
        ("debian", "", "debian "),
        ("ubuntu", "22.10", "ubuntu 22.10"),
        ("rocky", "8.10", "rocky 8.10"),
        ("arch", "", "arch "),
        ("", "", "an unknown distribution "),
    ],
)
def test_an_unsupported_distribution_is_refused(name: str, version: str, shown: str) -> None:
    """It is named, and so are those that are supported."""
    (line,) = refusals(facts(os_id=name, os_version=version))
    assert line.startswith(
        f"h1: distribution: {shown} is not supported; use debian 12/13, ubuntu 22.04/24.04"
    )


def test_a_play_that_is_not_root_is_refused() -> None:
    """The remedy names the variable."""
    (line,) = refusals(facts(uid=1000))
    assert line == "h1: ansible_become: the play is not root on the host; connect as root or set become"


def test_a_host_without_systemd_is_refused() -> None:
    """A container with another first process, say."""
    (line,) = refusals(facts(systemd=False))
    assert line.startswith("h1: systemd: does not run as the first process")


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """A user mends it in one go."""
    given = facts(os_id="plan9", machine="mips", uid=7, systemd=False, free_bytes=0, host_json="{")
    named = [line.split(": ")[1] for line in refusals(given)]
    assert named == [
        "distribution",
        "architecture",
        "ansible_become",
        "systemd",
        "/etc/runnerctl/host.json",
        "/opt",
    ]


# -- space -------------------------------------------------------------------------------------------------

CLI = CLI_BYTES + BUILDER_BYTES
ALL = CLI + CONDA_BYTES + RELEASE_BYTES


@pytest.mark.parametrize(
    ("has", "variables", "needed"),
    [
        ({}, {}, ALL),
        ({"cli": True}, {}, CONDA_BYTES + RELEASE_BYTES),
        ({"conda": True}, {}, CLI + RELEASE_BYTES),
        ({"releases": ("2.336.0",)}, {}, CLI + CONDA_BYTES),
        ({}, {"conda_manage": False}, CLI + RELEASE_BYTES),
        ({}, {"github_runner_slots": []}, CLI + CONDA_BYTES),
        ({"cli": True, "conda": True, "releases": ("2.336.0",)}, {}, 0),
    ],
)
def test_space_is_needed_for_what_is_not_there_yet(
    has: dict[str, Any], variables: dict[str, Any], needed: int
) -> None:
    """Exactly enough passes, a byte less is refused with both figures."""
    assert refusals(facts(free_bytes=needed, **has), **variables) == []
    if needed:
        (line,) = refusals(facts(free_bytes=needed - 1, **has), **variables)
        figures = f"has {(needed - 1) >> 20} MiB free, {needed >> 20} MiB are needed"
        assert line == f"h1: /opt: {figures}; free some space"


# -- host.json ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("", "is truncated or no JSON", "remove it"),
        ('{"schema": "runnerctl.ho', "is truncated or no JSON", "remove it"),
        ("[]", "is truncated or no JSON", "remove it"),
        ("{}", "has schema None", "remove it"),
        ('{"schema": 7}', "has schema 7", "remove it"),
        ('{"schema": "other/1"}', "has schema 'other/1'", "remove it"),
        ('{"schema": "runnerctl.host/x"}', "has schema 'runnerctl.host/x'", "remove it"),
        ('{"schema": "runnerctl.host/2"}', "has the newer schema runnerctl.host/2", "upgrade runnerctl"),
    ],
)
def test_a_damaged_or_newer_host_json_is_refused(text: str, message: str, remedy: str) -> None:
    """A newer one is never written over: its remedy is an upgrade, not its removal."""
    problem = schema_problem(text)
    assert problem is not None
    assert problem.variable == "/etc/runnerctl/host.json"
    assert problem.message.startswith(message)
    assert problem.remedy.startswith(remedy)


@pytest.mark.parametrize(
    "text", [None, f'{{"schema": "{SCHEMA}"}}', f'{{"schema": "{SCHEMA}", "host": "h1", "more": 1}}']
)
def test_none_or_one_of_this_schema_passes(text: str | None) -> None:
    """A converge writes it anew in either case."""
    assert schema_problem(text) is None
    assert refusals(facts(host_json=text)) == []


def gpus(*pci: str, **changes: Any) -> DriverFacts:
    """The GPUs of a Debian 12 host."""
    return DriverFacts("debian", "12", "x86_64", pci=pci, **changes)


def test_a_driver_that_cannot_work_is_refused_with_everything_else() -> None:
    """Before the first change, and beside the other problems."""
    given = facts(driver=gpus("2901"), uid=1000)
    lines = refusals(given, nvidia_driver_flavour="proprietary")
    assert len(lines) == 2
    assert lines[0].startswith("h1: ansible_become: ")
    assert lines[1].startswith("h1: nvidia_driver_flavour: GPU 2901 (Blackwell) cannot run ")


def test_no_driver_is_judged_on_a_distribution_that_is_refused() -> None:
    """There the tables know nothing; nor where the play leaves the driver out."""
    given = facts(os_id="arch", os_version="1", driver=DriverFacts("arch", "1", "x86_64", pci=("2901",)))
    assert [line.split(": ")[1] for line in refusals(given)] == ["distribution"]
    assert refusals(facts(driver=None), nvidia_driver_flavour="open") == []


@pytest.mark.parametrize("shared", [True, False])
def test_a_driver_needs_room(shared: bool) -> None:
    """In /, beside what /opt needs when that is the same file system; not when it is installed already."""
    opt = CLI + CONDA_BYTES + RELEASE_BYTES
    needed = DRIVER_BYTES + (opt if shared else 0)

    def room(free: int, **installed: Any) -> HostFacts:
        driver = gpus("2330", installed=InstalledDriver(**installed))
        return facts(driver=driver, root_free_bytes=free, free_bytes=free if shared else opt)

    assert refusals(room(needed)) == []
    message = f"h1: /: has {(needed - 1) >> 20} MiB free, {needed >> 20} MiB are needed; free some space"
    assert refusals(room(needed - 1)) == [message]
    there = {"packages": {"nvidia-kernel-dkms": "535.261.03-1"}}
    assert refusals(room(max(needed - 1, opt), **there)) == []
    assert refusals(room(needed - 1), nvidia_driver_manage=False) == []


def test_a_toolkit_that_cannot_be_is_refused_with_everything_else() -> None:
    """Before the first change; only where the role is wanted and part of the play."""
    given = facts(os_id="rocky", os_version="9.6", uid=1000)
    wish: dict[str, Any] = {"container_toolkit_manage": True, "container_toolkit_docker": True}
    lines = refusals(given, **wish)
    assert [line.split(": ")[1] for line in lines] == ["ansible_become", "container_toolkit_docker_source"]
    assert lines[1].endswith("Enterprise Linux has no Docker Engine of its own; set it to docker")
    assert len(refusals(given, **{**wish, "container_toolkit_manage": False})) == 1
    assert len(host_problems(spec(**wish), given, toolkit=False)) == 1
    assert len(refusals(given, **wish, container_toolkit_docker_source="docker")) == 1


def test_a_host_of_an_unknown_kind_is_refused_once() -> None:
    """The toolkit's own word on it would say the same; what else is wrong with it is said all the same."""
    wish: dict[str, Any] = {"container_toolkit_manage": True, "container_toolkit_docker": True}
    given = facts(os_id="rocky", os_version="8.10")
    named = [line.split(": ")[1] for line in refusals(given, **wish)]
    assert named == ["distribution", "container_toolkit_docker_source"]
    assert [line.split(": ")[1] for line in refusals(facts(machine="riscv64"), **wish)] == ["architecture"]
