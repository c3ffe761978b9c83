"""Which driver a host gets, on data: facts and spec in, the complete plan or the refusal out."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from runnerctl.core.driver_plan import driver_plan
from runnerctl.core.driver_rules import driver_rules
from runnerctl.core.driver_sources import DRIVER_PACKAGES, UPGRADE_BLACKLIST
from runnerctl.core.driver_structs import DriverFacts, DriverPlan, Flavour, InstalledDriver
from runnerctl.core.gpu_generations import GENERATIONS, generation_of, has_mig
from runnerctl.core.preflight import SUPPORTED
from runnerctl.core.sections import MigLayout, NvidiaDriver, Problem
from runnerctl.core.spec import host_spec

CASES = Path(__file__).parent / "cases_driver"
SHORT = {
    "@driver_packages": list(DRIVER_PACKAGES),
    "@hold": [*DRIVER_PACKAGES, "nvlsm"],
    "@upgrade_blacklist": list(UPGRADE_BLACKLIST),
}
UUID = "GPU-4b1d2c6e-0f3a-4c58-9d27-6f1a8e5b3c90"


def _cases() -> list[Any]:
    return [
        pytest.param(case, id=f"{file}: {case['name']}")
        for file in ("plans", "adopted", "refused")
        for case in json.loads((CASES / f"{file}.json").read_text())
    ]


def _planned(case: dict[str, Any]) -> DriverPlan | list[Problem]:
    spec = msgspec.convert(case["spec"], NvidiaDriver)
    return driver_plan(spec, msgspec.convert(case["facts"], DriverFacts))


def _long(value: Any) -> Any:
    """A case's plan with its abbreviations written out."""
    if isinstance(value, dict):
        return {key: _long(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_long(each) for each in value]
    return SHORT.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize(
    ("os_id", "os_version"),
    [("ubuntu", "25.10"), ("debian", "11"), ("rocky", "8.9"), ("fedora", "40"), ("", "")],
)
def test_a_distribution_that_nobody_knows(os_id: str, os_version: str) -> None:
    """Also where the role runs without preflight, which says it first."""
    facts = DriverFacts(os_id, os_version, "x86_64", pci=("2330",), kernels=("6.17.0-5-generic",))
    refused = driver_plan(NvidiaDriver(), facts)
    assert isinstance(refused, list)
    assert [problem.variable for problem in refused] == ["nvidia_driver_manage"]
    assert not isinstance(driver_plan(NvidiaDriver(manage=False), facts), list)


@pytest.mark.parametrize("case", _cases())
def test_cases(case: dict[str, Any]) -> None:
    """The whole plan, or every line of the refusal."""
    result = _planned(case)
    if isinstance(result, list):
        assert [problem.line("h1") for problem in result] == case.get("refused")
    else:
        assert result == msgspec.convert(_long(case["plan"]), DriverPlan)


def test_refusals_are_one_line_with_a_way_out() -> None:
    """A line names the host's own GPU, branch or package, and something to set or to do."""
    for case in json.loads((CASES / "refused.json").read_text()):
        for line in case["refused"]:
            assert "\n" not in line
            assert line.startswith("h1: nvidia_driver_")
            assert any(word in line.rpartition("; ")[2] for word in ("set ", "take ", "leave ", "switch "))


MATRIX = json.loads((CASES / "matrix.json").read_text())


@pytest.mark.parametrize(
    "row", MATRIX["rows"], ids=lambda row: " ".join((*row["os"], row["source"], row["flavour"]))
)
def test_matrix(row: dict[str, Any]) -> None:
    """Distribution, source and flavour against every generation: source, branch and flavour, or none."""
    for gpus, driver in zip(MATRIX["gpus"].values(), row["drivers"], strict=True):
        pci = (gpus,) if isinstance(gpus, str) else tuple(gpus)
        facts = DriverFacts(row["os"][0], row["os"][1], "x86_64", pci=pci)
        plan = driver_plan(NvidiaDriver(source=row["source"], flavour=row["flavour"]), facts)
        if isinstance(plan, list):
            assert driver == "-", gpus
        else:
            assert f"{(plan.source or '-')[0]} {plan.branch} {(plan.flavour or '-')[:4]}" == driver, gpus


# The rules once more, as NVIDIA's documents say them and apart from the code that chooses.
PRE_TURING = ("Maxwell", "Pascal", "Volta")
OPEN_ONLY = ("Grace Hopper", "Blackwell", "Blackwell Ultra", "newer generation")
ONE_OF_EACH = ("17c2", "1b38", "1db6", "1eb8", "2204", "20b0", "27b8", "2330", "2342", "2b85", "3182", "3040")


def _is_possible(plan: DriverPlan, gpu: str) -> bool:
    name, branch = generation_of(gpu).name, int(plan.branch or 0)
    if name in PRE_TURING and (branch > 580 or plan.flavour == "open"):
        return False
    if name in OPEN_ONLY and plan.flavour != "open":
        return False
    if name.startswith("Blackwell") and branch < 570:
        return False
    if plan.source == "distribution" and name.startswith("Blackwell"):
        return branch >= 570
    return not (branch >= 620 and plan.flavour == "proprietary")


@pytest.mark.exhaustive
def test_no_plan_pairs_what_cannot_work() -> None:
    """All hosts, sources, flavours and branches, with one and with two kinds of GPUs."""
    systems = [(name, version) for name, versions in SUPPORTED.items() for version in versions]
    wishes = itertools.product(
        ("auto", "distribution", "nvidia"),
        ("auto", *get_args(Flavour)),
        (None, "535", "550", "570", "580", "620"),
    )
    pairs = [*((gpu,) for gpu in ONE_OF_EACH), *itertools.combinations(ONE_OF_EACH, 2)]
    plans = 0
    for (source, flavour, branch), system in itertools.product(wishes, systems):
        spec = NvidiaDriver(source=source, flavour=flavour, branch=branch)
        for gpus in pairs:
            plan = driver_plan(spec, DriverFacts(system[0], system[1], "x86_64", pci=gpus))
            if isinstance(plan, list):
                assert plan and all(problem.remedy for problem in plan)
                continue
            plans += 1
            assert all(_is_possible(plan, gpu) for gpu in gpus), (plan, gpus)
            assert source in ("auto", plan.source) and flavour in ("auto", plan.flavour)
            assert branch in (None, plan.branch)
            assert bool(plan.repositories) == (plan.source == "nvidia")
            assert plan.dkms != plan.prebuilt_signed
            assert not any("xserver" in name or "xorg" in name for name in plan.packages)
    assert plans > 2000


def test_what_is_planned_is_adopted_later() -> None:
    """The second run sees the packages of the first and plans the same, whatever the spec leaves open."""
    for case in json.loads((CASES / "plans.json").read_text()):
        first = _planned(case)
        assert not isinstance(first, list)
        if first.action != "install":
            continue
        version = "6.8.0-52.53" if first.prebuilt_signed else f"{first.branch}.95.05-1"
        there = {name: version for item in first.packages for name in item.split("|")[:1]}
        for noted in ((), tuple(there)):
            facts = {**case["facts"], "installed": {"packages": there, "noted": noted}}
            assert _planned({**case, "facts": facts}) == first, case["name"]


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda each: each.name)
def test_a_generation_is_drivable_or_gone(generation: Any) -> None:
    """Every generation has a flavour and a branch, or ended before the branches that are installed."""
    assert generation.open or generation.proprietary
    assert generation.last is None or generation.first <= generation.last


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("0fc6", "Kepler"),
        ("1040", "Fermi or older"),
        ("1184", "Kepler"),
        ("13c0", "Maxwell"),
        ("15f8", "Pascal"),
        ("1725", "Pascal"),
        ("179C", "Maxwell"),
        ("1b80", "Pascal"),
        ("1d81", "Volta"),
        ("1db4", "Volta"),
        ("1e04", "Turing"),
        ("20b5", "Ampere"),
        ("2182", "Turing"),
        ("2236", "Ampere"),
        ("2331", "Hopper"),
        ("2342", "Grace Hopper"),
        ("233b", "Hopper"),
        ("2484", "Ampere"),
        ("2684", "Ada"),
        ("28a1", "Ada"),
        ("2901", "Blackwell"),
        ("2941", "Blackwell"),
        ("2b85", "Blackwell"),
        ("2e12", "Blackwell"),
        ("2f04", "Blackwell"),
        ("3021", "newer generation"),
        ("31c2", "Blackwell Ultra"),
        ("ffff", "newer generation"),
    ],
)
def test_generations_by_device_id(device: str, name: str) -> None:
    """Ids of the PCI ID repository, those out of line among them."""
    assert generation_of(device).name == name


@pytest.mark.parametrize("device", ["", "23", "23301", "zzzz"])
def test_what_is_no_device_id(device: str) -> None:
    """It is never taken for some old GPU."""
    with pytest.raises(ValueError, match=r".+"):
        generation_of(device)


def test_mig_capable_gpus() -> None:
    """A100, H100 and newer; neither A10 nor L4."""
    assert [has_mig(gpu) for gpu in ("20b0", "2330", "2901", "2bb5")] == [True] * 4
    assert [has_mig(gpu) for gpu in ("2236", "27b8", "1db6", "1eb8")] == [False] * 4


def test_a_key_file_takes_the_place_of_its_address() -> None:
    """The key of a file on the controller travels in the plan; the fingerprint is checked all the same."""
    facts = DriverFacts("debian", "12", "x86_64", pci=("2901",))
    plan = driver_plan(NvidiaDriver(repository_key="keys/nvidia.asc"), facts, key_text="armoured")
    assert isinstance(plan, DriverPlan)
    repository = plan.repositories[0]
    assert (repository.key_text, repository.key_url) == ("armoured", None)
    assert repository.key_fingerprint == "EB693B3035CD5710E231E123A4B469963BF863CC"


def test_several_problems_at_once() -> None:
    """A user mends them in one go."""
    installed = InstalledDriver(run_file=True)
    facts = DriverFacts("debian", "12", "x86_64", pci=("27b8",), secure_boot=True, installed=installed)
    problems = driver_plan(NvidiaDriver(mig=(MigLayout(("1g.10gb",)),)), facts)
    assert isinstance(problems, list)
    assert [each.message.split()[0] for each in problems] == ["GPU", "the", "Secure"]


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"gpu_count": -1}, "gpu_count: is -1; give 0 or more"),
        ({"branch": "latest"}, "branch: is 'latest'; give it as \"580\""),
        ({"branch": 58}, 'branch: is 58; give it as "580"'),
        ({"version": "580"}, "version: is '580'; give it as 580.95.05"),
        (
            {"version": "580.95.05", "branch": "570"},
            "version: 580.95.05 is not of nvidia_driver_branch 570; leave one of the two out",
        ),
        (
            {"device_ids": ["10de:2330"]},
            "device_ids: '10de:2330' is no PCI device id; give four hexadecimal digits in quotes, "
            'as `lspci -nn -d 10de:` shows them: "2330"',
        ),
        (
            {"repository_url": "https://m.example/{os}"},
            "repository_url: holds a placeholder other than {distribution} and {architecture}; "
            "use {distribution} and {architecture}, or the whole address",
        ),
        ({"repository_url": "m.example"}, "repository_url: is 'm.example'; give it as https://HOST/PATH"),
        (
            {"repository_key": "https://user:word@m.example/key"},
            "repository_key: holds a user or a password; host.json is readable by all: "
            "use a file on the controller",
        ),
        (
            {"repository_key_fingerprint": "3bf863cc"},
            "repository_key_fingerprint: is '3bf863cc'; give forty hexadecimal digits, "
            "as `gpg --show-keys KEY` prints them",
        ),
        (
            {"mig": [{"profiles": ["1g.10g"]}]},
            "mig[0]: '1g.10g' is no MIG profile; give it as `nvidia-smi mig -lgip` prints it: 1g.10gb",
        ),
        ({"mig": [{"profiles": []}]}, "mig[0]: has no profiles; name some, such as 1g.10gb"),
        (
            {"mig": [{"profiles": ["1g.10gb"], "gpus": ["0"]}]},
            "mig[0]: '0' is no UUID of a GPU; give it as `nvidia-smi -L` prints it: GPU-...",
        ),
        (
            {"mig": [{"profiles": ["1g.10gb"], "gpus": [UUID]}, {"profiles": ["7g.80gb"], "gpus": [UUID]}]},
            f"mig[1]: GPU {UUID} has a layout already; give it one",
        ),
        (
            {"mig": [{"profiles": ["1g.10gb"]}, {"profiles": ["7g.80gb"], "gpus": [UUID]}]},
            "mig: one of several layouts is for all GPUs; name the GPUs of each layout",
        ),
        (
            {"manage": False, "mig": [{"profiles": ["1g.10gb"]}]},
            "mig: is given, and nvidia_driver_manage is false; leave the layout to who manages the driver",
        ),
    ],
)
def test_rules(variables: dict[str, Any], line: str) -> None:
    """What types cannot say is refused with the variable's name."""
    given = {f"nvidia_driver_{name}": value for name, value in variables.items()}
    spec, problems = host_spec("h1", {"github_runner_url": "https://github.com/acme", **given})
    assert spec is None
    assert [problem.line("h1") for problem in problems] == [f"h1: nvidia_driver_{line}"]


@pytest.mark.parametrize(
    "variables",
    [
        {"branch": 580, "version": "580.95.05"},
        {"mig": (MigLayout(("1g.10gb+me", "1g.24gb+gfx", "4g.71gb", "7g.141gb"), (UUID,)),)},
        {"repository_key": "keys/nvidia.asc", "repository_key_fingerprint": "ABCD " * 10},
        {"device_ids": ("2330", "26B9"), "gpu_count": 0},
        {"repository_url": "http://10.0.0.1:8080/cuda"},
    ],
)
def test_rules_that_hold(variables: dict[str, Any]) -> None:
    """Good values pass."""
    assert driver_rules(NvidiaDriver(**variables)) == []
