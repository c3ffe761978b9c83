"""Slots laid out over hardware: wishes, what is refused, what is kept, labels, shares of CPUs and memory."""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import msgspec
import pytest

from runnerctl.core.hardware import Gpu, Hardware, MigDevice, NumaNode, UnreadGpu
from runnerctl.core.layout import Layout, layout_of
from runnerctl.core.sections import HostSpec, Problem
from runnerctl.core.slot_layout import Planned, after_cut, lay_out, undo_layout
from runnerctl.core.slot_layout_foreseen import foreseen, seen_at_github
from runnerctl.core.slot_layout_groups import _greedy, bond, division, worth
from runnerctl.core.slot_layout_labels import slug
from runnerctl.core.slot_layout_shares import cpu_list
from runnerctl.core.spec import host_spec

GIB = 1 << 30
NODES = tuple(
    NumaNode(node, tuple((cpu, cpu + 32) for cpu in range(node * 16, node * 16 + 16)), 256 * GIB)
    for node in (0, 1)
)


def uuid(index: int) -> str:
    """The UUID of a GPU of these hosts."""
    return f"GPU-{index:08d}-0000"


def gpu(index: int, **more: Any) -> Gpu:
    """An H100 in a host with two nodes of four GPUs each."""
    known = {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 85520809984, "compute_capability": "9.0"}
    place = {"pci_bus_id": f"0000:{index + 1:02x}:00.0", "numa_node": index // 4, "mig": False}
    return Gpu(uuid(index), index, **{**known, **place, **more})


def host(count: int = 8, **more: Any) -> Hardware:
    """A host with so many GPUs."""
    given = {"gpus": tuple(map(gpu, range(count))), "numa": NODES, "memory_bytes": 512 * GIB}
    return Hardware(**{**given, "driver_version": "575.57.08", "cuda_version": "12.9", **more})


def cut(index: int, *profiles: str) -> Gpu:
    """A GPU in MIG mode."""
    parts = tuple(
        MigDevice(f"MIG-{index}-part-{number}", profile, 10 * GIB) for number, profile in enumerate(profiles)
    )
    return gpu(index, mig=True, mig_devices=parts)


def spec(**runner: Any) -> HostSpec:
    """A spec of these variables of role github_runner."""
    values = {f"github_runner_{name}": value for name, value in runner.items()}
    found, problems = host_spec("h1", {"github_runner_url": "https://github.com/acme", **values})
    assert found is not None, problems
    return found


def planned(wanted: HostSpec, hardware: Hardware, current: Layout | None = None) -> HostSpec:
    """The spec laid out, which must be possible."""
    found = lay_out(wanted, hardware, current)
    assert isinstance(found, Planned), found
    assert found.undecided is None
    return found.spec


def gpus_of(found: HostSpec) -> dict[str, list[int]]:
    """Slot -> the indices of its GPUs."""
    return {slot.name: [int(each[4:12]) for each in slot.gpus] for slot in found.github_runner.slots}


def lines(wanted: HostSpec, hardware: Hardware) -> str:
    """Why a layout is refused."""
    found = lay_out(wanted, hardware)
    assert isinstance(found, list), found
    assert all(isinstance(problem, Problem) for problem in found)
    return "\n".join(problem.line("h1") for problem in found)


def test_one_slot_a_gpu_then_all_in_one_and_back() -> None:
    """1 -> 8 -> 1: the first slot stays, under its name; a plan made twice is the same plan."""
    one = planned(spec(gpus_per_slot=8), host())
    assert gpus_of(one) == {"gpu0": list(range(8))}
    eight = planned(spec(gpus_per_slot=1), host(), one.layout)
    assert gpus_of(eight) == {f"gpu{index}": [index] for index in range(8)}
    assert planned(spec(gpus_per_slot=1), host(), eight.layout) == eight
    assert planned(spec(gpus_per_slot=8), host(), eight.layout) == one
    assert undo_layout(eight) == spec(gpus_per_slot=1)


def test_a_slot_keeps_its_gpus_when_others_go_or_come() -> None:
    """A card that was taken out costs its own slot, one that was put in gets the free name."""
    before = planned(spec(gpus_per_slot=1), host())
    without = host(gpus=tuple(gpu(index) for index in range(8) if index != 3))
    fewer = planned(spec(gpus_per_slot=1), without, before.layout)
    assert gpus_of(fewer) == {f"gpu{index}": [index] for index in range(8) if index != 3}
    swapped = host(gpus=tuple(gpu(index) for index in (0, 1, 2, 9, 4, 5, 6, 7)))
    assert gpus_of(planned(spec(gpus_per_slot=1), swapped, fewer.layout))["gpu3"] == [9]


def test_a_sick_gpu_is_no_missing_one() -> None:
    """What the driver counts and cannot read keeps its slot; so does all of a host that cannot be read."""
    before = planned(spec(gpus_per_slot=2), host())
    sick = host(gpus=tuple(gpu(index) for index in range(8) if index != 5), unread=(UnreadGpu(5, "lost"),))
    assert gpus_of(planned(spec(gpus_per_slot=2), sick, before.layout)) == gpus_of(before)
    gone = host(gpus=(), unavailable="the driver is not loaded")
    found = lay_out(spec(gpus_per_slot=2), gone, before.layout)
    assert isinstance(found, Planned)
    assert (found.spec, found.undecided) == (before, None)
    assert "not loaded" in found.notes[0]


def test_a_uuid_in_another_case_is_the_same_gpu() -> None:
    """Whether or not the driver answers just now: neither the unit nor the labels change."""
    wanted = spec(slots=[{"name": "a", "gpus": [f"GPU-{uuid(3)[4:].upper()}"]}])
    before = planned(wanted, host())
    assert gpus_of(before) == {"a": [3]}
    assert planned(wanted, host(gpus=(), unavailable="it hangs"), before.layout) == before
    sick = host(gpus=tuple(gpu(index) for index in range(8) if index != 3), unread=(UnreadGpu(3, "lost"),))
    assert planned(wanted, sick, before.layout) == before


def test_what_cannot_be_read_is_undecided_not_empty() -> None:
    """Without a layout from before there are no slots to keep, and none are made up."""
    gone = host(gpus=(), unavailable="the driver's library is missing")
    found = lay_out(spec(gpus_per_slot=1), gone)
    assert isinstance(found, Planned)
    assert found.undecided is not None
    assert "library is missing" in found.undecided.line("h1")
    explicit = spec(slots=[{"name": "a", "gpus": [uuid(1)]}])
    assert gpus_of(planned(explicit, gone)) == {"a": [1]}


def test_named_slots_get_gpus_where_they_name_none() -> None:
    """The slot with UUIDs of its own keeps to them, the others share the rest, in pairs of one node."""
    wanted = spec(
        gpus_per_slot=2, slots=[{"name": "a", "gpus": [uuid(2)]}, {"name": "b"}, {"name": "c"}, {"name": "d"}]
    )
    found = planned(wanted, host())
    assert gpus_of(found)["a"] == [2]
    assert all(left // 4 == right // 4 for left, right in list(gpus_of(found).values())[1:])
    assert undo_layout(found) == wanted


REFUSALS: dict[str, tuple[dict[str, Any], Hardware, str]] = {
    "more slots than GPUs": (
        {"gpus_per_slot": 2, "slots": [{"name": "a"}, {"name": "b"}]},
        host(3),
        "2 slots want 2 GPUs each, 4 in all; 3 are free",
    ),
    "more GPUs than the host has": ({"gpus_per_slot": 9}, host(), "is 9, and 8 GPUs of this host are free"),
    "a UUID that is not there": (
        {"slots": [{"name": "a", "gpus": [uuid(0)]}, {"name": "b", "gpus": [uuid(9)]}]},
        host(2),
        f"GPU {uuid(9)} is not on this host",
    ),
    "a GPU twice, spelt in two ways": (
        {"slots": [{"name": "a", "gpus": ["GPU-0000abcd"]}, {"name": "b", "gpus": ["GPU-0000ABCD"]}]},
        host(gpus=(Gpu("GPU-0000abcd"),)),
        "already claimed: slot 'a' has it",
    ),
    "a part of a GPU that is claimed whole": (
        {"slots": [{"name": "a", "gpus": ["MIG-0-part-0"]}, {"name": "b", "gpus": [uuid(0)]}]},
        host(gpus=(cut(0, "1g.10gb"),)),
        "slot 'a' has MIG-0-part-0, a part of it",
    ),
    "a GPU in MIG mode as a whole": (
        {"slots": [{"name": "a", "gpus": [uuid(0)]}]},
        host(gpus=(cut(0, "1g.10gb"),)),
        "is in MIG mode",
    ),
    "a profile that no card has": (
        {"mig_profile": "3g.40gb"},
        host(gpus=(cut(0, "1g.10gb"),)),
        "no GPU of this host has a MIG device of profile 3g.40gb: 1g.10gb",
    ),
    "more MIG slots than devices": (
        {"slots": [{"name": "a", "mig": "1g.10gb"}, {"name": "b", "mig": "1g.10gb"}]},
        host(gpus=(cut(0, "1g.10gb"),)),
        "no MIG device of profile 1g.10gb is left",
    ),
    "a made slot with the name of another": (
        {"mig_profile": "1g.10gb", "slots": [{"name": "mig0"}]},
        host(gpus=(cut(0, "1g.10gb"),)),
        "github_runner_slots names one",
    ),
    "more CPUs than there are": (
        {"gpus_per_slot": 1, "cpus_per_slot": 9},
        host(),
        "is 9 for 8 slots, and the host has 64 CPUs; give at most 8",
    ),
    "more memory than there is": (
        {"gpus_per_slot": 1, "memory_per_slot_mib": 65536},
        host(),
        "for 8 slots, and the host has",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused(case: str) -> None:
    """Each in a line that says what was found."""
    wishes, hardware, expected = REFUSALS[case]
    text = lines(spec(**wishes), hardware)
    assert expected in text
    if "CPUs" not in case and "memory" not in case:
        assert f"GPU 0 {hardware.gpus[0].uuid}" in text, "the mapping that was found is missing"


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"gpus_per_slot": 0}, "give at least 1"),
        ({"memory_per_slot_mib": 8}, "give at least 256"),
        ({"mig_profile": "1g"}, "is no MIG profile"),
        ({"slots": [{"name": "a", "mig": "1g.10gb", "gpus": ["MIG-0000-1"]}]}, "gives both gpus and mig"),
    ],
)
def test_wishes_that_no_hardware_can_meet(wishes: dict[str, Any], expected: str) -> None:
    """Refused from inventory alone."""
    values = {f"github_runner_{name}": value for name, value in wishes.items()}
    found, problems = host_spec("h1", {"github_runner_url": "https://github.com/acme", **values})
    assert found is None
    assert expected in problems[0].line("h1")


def test_mig_devices_make_slots_and_keep_their_names() -> None:
    """Every device of the profile, beside slots of whole GPUs; a device that is gone leaves a gap."""
    hardware = host(gpus=(cut(0, "1g.10gb", "1g.10gb", "2g.20gb"), gpu(1)))
    wanted = spec(mig_profile="1g.10gb", gpus_per_slot=1)
    found = planned(wanted, hardware)
    assert {slot.name: slot.gpus for slot in found.github_runner.slots} == {
        "gpu0": (uuid(1),),
        "mig0": ("MIG-0-part-0",),
        "mig1": ("MIG-0-part-1",),
    }
    labels = found.slot_labels(found.github_runner.slots[1])
    assert {"gpu-mig-1g.10gb", "gpu-count-1", "gpu-vram-10gib"} <= set(labels)
    left = msgspec.structs.replace(hardware.gpus[0], mig_devices=hardware.gpus[0].mig_devices[1:])
    again = planned(wanted, host(gpus=(left, gpu(1))), found.layout)
    assert [slot.name for slot in again.github_runner.slots] == ["gpu0", "mig1"]


def test_a_cut_that_is_still_to_come_is_judged_as_it_will_be() -> None:
    """Role nvidia_driver cuts after preflight: what it will make can be asked for, other profiles cannot."""
    values = {"nvidia_driver_mig": [{"profiles": ["1g.10gb"] * 2}], "github_runner_mig_profile": "1g.10gb"}
    wanted, _ = host_spec("h1", {"github_runner_url": "https://github.com/acme", **values})
    assert wanted is not None
    future, differs = after_cut(wanted, host(2))
    assert differs
    assert len(planned(wanted, future).github_runner.slots) == 4
    assert after_cut(wanted, future)[1] is False


# -- neighbours ------------------------------------------------------------------------------------------


def _partitions(left: tuple[int, ...], size: int, count: int) -> list[tuple[tuple[int, ...], ...]]:
    if count == 0:
        return [()]
    found = []
    for group in itertools.combinations(left, size):
        rest = tuple(each for each in left if each not in group and each > group[0])
        found += [(group, *more) for more in _partitions(rest, size, count - 1)]
    return found


def _odd_host(count: int, seed: int) -> list[Gpu]:
    """A host whose GPUs are connected without rhyme or reason, the same for each seed."""

    def choose(values: list[int], *key: int) -> int:
        return values[zlib.crc32(repr((seed, *sorted(key))).encode()) % len(values)]

    def place(index: int) -> str:
        return f"0000:{index + 1:02x}:00.0"

    found = []
    for index in range(count):
        others = [other for other in range(count) if other != index]
        links = {place(other): choose([0, 0, 1, 2, 4], index, other) for other in others}
        levels = {uuid(other): choose([10, 20, 40, 50], index, other, 99) for other in others}
        found.append(gpu(index, numa_node=choose([0, 1], index), links=links, levels=levels))
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("count", "size"), [(8, 2), (8, 4), (8, 3), (7, 2), (6, 3), (5, 2), (4, 4)])
def test_groups_are_the_best_there_are(count: int, size: int, seed: int) -> None:
    """Compared with every division there is; and never worse than taking GPUs in their order."""
    gpus = _odd_host(count, seed)
    bonds = {(i, j): bond(gpus[i], gpus[j]) for i, j in itertools.combinations(range(count), 2)}
    groups = count // size
    best = max(
        sum(worth(group, bonds) for group in each) for each in _partitions(tuple(range(count)), size, groups)
    )
    found = division(gpus, size=size, count=groups)
    assert sum(worth(group, bonds) for group in found) == best
    assert len({index for group in found for index in group}) == size * groups


def test_many_gpus_are_grouped_well_enough() -> None:
    """Beyond the exact search: whole islands of NVLink are found."""
    islands = [set(range(at, 24, 6)) for at in range(6)]
    places = {index: f"0000:{index + 1:02x}:00.0" for index in range(24)}
    gpus = [
        gpu(index, numa_node=0, links={places[other]: 2 for other in islands[index % 6] - {index}})
        for index in range(24)
    ]
    assert [set(group) for group in division(gpus, size=4, count=6)] == islands
    bonds = {(i, j): bond(gpus[i], gpus[j]) for i, j in itertools.combinations(range(24), 2)}
    assert len(_greedy(24, 5, 4, bonds)) == 4


def test_links_through_a_switch_count() -> None:
    """Two GPUs on the same switches are neighbours, those on other switches are not."""
    one, two = gpu(0, links={"switch-a": 4}), gpu(1, links={"switch-a": 4})
    far = gpu(4, links={"switch-b": 4})
    assert bond(one, two) > bond(one, far)
    assert bond(one, gpu(4, nvlink_peers=(uuid(0),))) > bond(one, gpu(1))


# -- labels ----------------------------------------------------------------------------------------------


def test_labels_say_what_the_gpus_are() -> None:
    """All families, lower case; of different GPUs every model and what all of them have at least."""
    found = planned(spec(gpus_per_slot=2, labels=["Mine"]), host(2))
    assert found.slot_labels(found.github_runner.slots[0]) == (
        *("gpu", "gpu-cc-9.0", "gpu-count-2", "gpu-cuda-12", "gpu-driver-575"),
        *("gpu-model-h100-80gb-hbm3", "gpu-vram-80gib", "mine"),
    )
    other = gpu(1, name="NVIDIA L4", memory_bytes=24152899584, compute_capability="8.9")
    mixed = planned(spec(gpus_per_slot=2), host(gpus=(gpu(0), other)))
    labels = mixed.slot_labels(mixed.github_runner.slots[0])
    assert {"gpu-model-h100-80gb-hbm3", "gpu-model-l4", "gpu-vram-22gib", "gpu-cc-8.9"} <= set(labels)


def test_a_users_own_label_of_a_family_wins() -> None:
    """Nothing is derived beside it; and nothing at all when that is switched off."""
    wanted = spec(gpus_per_slot=2, labels=["GPU-model-Fast", "gpu-vram-lots"])
    found = planned(wanted, host(2))
    labels = found.slot_labels(found.github_runner.slots[0])
    assert [each for each in labels if each.startswith(("gpu-model", "gpu-vram"))] == [
        *("gpu-model-fast", "gpu-vram-lots"),
    ]
    off = planned(spec(gpus_per_slot=2, derived_labels=False), host(2))
    assert off.slot_labels(off.github_runner.slots[0]) == ("gpu",)


def test_labels_are_not_drift_where_the_layout_is_not_known() -> None:
    """A controller has no layout at hand: derived labels of a record are right, others are not."""
    wanted = spec(slots=[{"name": "a", "gpus": [uuid(0)], "labels": ["gpu-cc-any"]}])
    slot = wanted.github_runner.slots[0]
    have = ["gpu", "gpu-cc-9.0", "gpu-model-l4", "by-hand"]
    assert wanted.expected_labels(slot, have) == ("gpu", "gpu-cc-any", "gpu-model-l4")
    assert planned(wanted, host(1)).expected_labels(slot, have) != ("gpu", "gpu-cc-any", "gpu-model-l4")


def test_a_name_becomes_a_label() -> None:
    """Whatever a driver calls a GPU."""
    assert slug("A100-SXM4-40GB") == "a100-sxm4-40gb"
    assert slug("RTX 6000 Ada, Generation\x1b[0m") == "rtx-6000-ada-generation-0m"


# -- CPUs and memory -------------------------------------------------------------------------------------


def _cpus(text: str | None) -> set[int]:
    assert text is not None
    parts = (part.partition("-") for part in text.split(","))
    return {cpu for first, _, last in parts for cpu in range(int(first), int(last or first) + 1)}


def test_cpus_and_memory_follow_the_numa_nodes() -> None:
    """Whole cores of the GPU's own node, each to one slot; memory in the same parts, some for the host."""
    found = planned(spec(gpus_per_slot=1), host())
    assert found.layout is not None
    shares = {share.name: share for share in found.layout.slots}
    assert shares["gpu0"].cpus == "0-3,32-35"
    assert shares["gpu0"].numa_nodes == (0,)
    assert _cpus(shares["gpu5"].cpus) <= {cpu for core in NODES[1].cores for cpu in core}
    everything = [cpu for share in shares.values() for cpu in _cpus(share.cpus)]
    assert len(everything) == len(set(everything)) == 64
    memory = [share.memory_bytes or 0 for share in shares.values()]
    assert len(set(memory)) == 1
    assert 0.9 * 512 * GIB < sum(memory) < 0.96 * 512 * GIB


def test_one_slot_has_all_cpus_and_more_slots_than_cores_share_them() -> None:
    """A host with one slot is that slot's; eight slots on two cores are not pinned."""
    alone = planned(spec(), host(0))
    assert alone.layout is not None
    assert alone.layout.slots[0].cpus is None
    small = host(numa=(NumaNode(0, ((0,), (1,)), 16 * GIB),), memory_bytes=16 * GIB)
    found = planned(spec(gpus_per_slot=1), small)
    assert found.layout is not None
    assert {share.cpus for share in found.layout.slots} == {None}


def test_numbers_of_cpus_and_memory_can_be_given() -> None:
    """Then each slot has exactly that."""
    found = planned(spec(gpus_per_slot=1, cpus_per_slot=3, memory_per_slot_mib=4096), host())
    assert found.layout is not None
    sets = [_cpus(share.cpus) for share in found.layout.slots]
    assert [len(each) for each in sets] == [3] * 8
    assert len(set().union(*sets)) == 24
    assert {share.memory_bytes for share in found.layout.slots} == {4 * GIB}


def test_a_kernel_that_keeps_a_little_more_changes_no_limit() -> None:
    """MemTotal differs between kernels: that alone restarts no slot."""
    before = planned(spec(gpus_per_slot=1), host())
    assert planned(spec(gpus_per_slot=1), host(memory_bytes=510 * GIB), before.layout) == before
    assert planned(spec(gpus_per_slot=1), host(memory_bytes=400 * GIB), before.layout) != before


def test_cpu_lists_read_as_the_kernels_do() -> None:
    """Ranges, in order."""
    assert cpu_list([5, 0, 1, 2, 7]) == "0-2,5,7"


def test_the_layout_of_a_host_is_read_or_nothing() -> None:
    """A host.json of another release, or a broken one, says nothing."""
    found = planned(spec(gpus_per_slot=1), host())
    assert layout_of(msgspec.json.encode(found).decode()) == found.layout
    for text in (None, "", "{", "[]", '{"layout": 3}', '{"layout": null}', '{"layout": {"slots": [{}]}}'):
        assert layout_of(text) is None


# -- what a controller knows without asking --------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"github_runner_gpus_per_slot": 2, "nvidia_driver_gpu_count": 5}, ["gpu0", "gpu1"]),
        ({"github_runner_gpus_per_slot": 2}, []),
        (
            {
                "github_runner_mig_profile": "1g.10gb",
                "github_runner_gpus_per_slot": 1,
                "nvidia_driver_gpu_count": 2,
                "nvidia_driver_mig": [
                    {"profiles": ["1g.10gb", "1g.10gb"], "gpus": ["GPU-0000aaaa-0000-4000-8000-000000000000"]}
                ],
            },
            ["gpu0", "mig0", "mig1"],
        ),
        ({"github_runner_gpus_per_slot": 1, "github_runner_slots": [{"name": "a"}]}, ["a"]),
        ({}, ["main"]),
    ],
)
def test_slots_that_inventory_alone_can_tell(values: dict[str, Any], expected: list[str]) -> None:
    """By the number of GPUs that inventory expects; never a default slot that will not be."""
    wanted, problems = host_spec("h1", {"github_runner_url": "https://github.com/acme", **values})
    assert wanted is not None, problems
    slots = foreseen(wanted).github_runner.slots
    assert [slot.name for slot in slots] == expected
    if expected != ["main"]:
        assert all("gpu" in foreseen(wanted).slot_labels(slot) for slot in slots)


def test_a_default_slot_is_the_pattern_of_those_that_are_made() -> None:
    """Its labels, group and place at GitHub are theirs; taken back, inventory's word is what it was."""
    like = {"name": "main", "url": "https://github.com/other", "labels": ["big"], "group": "g"}
    wanted = spec(gpus_per_slot=4, slots=[like])
    found = planned(wanted, host())
    assert [slot.name for slot in found.github_runner.slots] == ["gpu0", "gpu1"]
    assert {(slot.url, slot.labels, slot.group) for slot in found.github_runner.slots} == {
        ("https://github.com/other", ("big",), "g")
    }
    assert undo_layout(found) == wanted


def test_what_a_dead_host_had_is_told_by_its_records() -> None:
    """Only names that its wishes make; another host's are not its own."""
    names = ["h1-gpu0", "H1-GPU11", "h1-mig2", "h1-old", "h2-gpu0", "h1-gpu0-b"]
    found = seen_at_github(spec(gpus_per_slot=1), names)
    assert [slot.name for slot in found.github_runner.slots] == ["gpu0", "gpu11", "mig2"]
    plain = spec()
    assert seen_at_github(plain, names) == plain
