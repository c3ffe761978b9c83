"""Which device nodes belong to a slot's GPUs, and whether its unit opens those and no others. Pure.

The numbers are the kernel's and the driver's: major 195 is NVIDIA's (``/dev/nvidiaN``, N is NVML's *minor*,
not its index; 255 is ``/dev/nvidiactl``). The majors of nvidia-uvm and nvidia-caps are given at load time and
stand in ``/proc/devices``; the minors of MIG's capability nodes are given when instances are made, and stand
in ``/proc/driver/nvidia-caps/mig-minors``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from runnerctl.core.gpu_readings import Gpu
from runnerctl.core.reading import Taken
from runnerctl.errors import UnavailableError

__all__ = [
    "ENGINE_NODES",
    "SPARED",
    "DeviceTable",
    "Differences",
    "Node",
    "Place",
    "UnitRules",
    "compare",
    "parse_majors",
    "parse_mig_minors",
    "parse_rules",
    "parse_slot_unit",
    "places_of",
    "resolve",
]

# By this drop-in a job keeps what it began with while its unit's files change (slot_spare).
SPARED = "99-running-job.conf"
NVIDIA, CONTROL = 195, 255
_UVM, _CAPS = "nvidia-uvm", "nvidia-caps"
_CLAIM = re.compile(r"^Environment=CUDA_VISIBLE_DEVICES=(\S*)$", re.MULTILINE)
_NUMBERED = re.compile(r"/dev/(?:char/(\d+):(\d+)|nvidia(\d+)|nvidiactl)$")
_OF_SYSTEMD = frozenset({"char-rtc"})  # what ProtectClock= adds, for reading
# Names that open the GPUs of all slots at once.
_EVERY_GPU = re.compile(r"char-(?:nvidia\S*|\*)$|/dev/nvidia-caps(?:/|$)")


class Node(msgspec.Struct, frozen=True, order=True):
    """A character device and the path it usually has."""

    major: int
    minor: int
    path: str

    @property
    def allow(self) -> str:
        """What ``DeviceAllow=`` is told: by number, so that it holds before the node is made."""
        return f"/dev/char/{self.major}:{self.minor}"


# What an engine without root opens for its containers' network (Documentation/admin-guide/devices).
ENGINE_NODES = (Node(10, 200, "/dev/net/tun"),)


class Place(msgspec.Struct, frozen=True):
    """Where a UUID is now: its GPU's minor, and for a MIG device its instances."""

    minor: int
    gpu_instance: int | None = None
    compute_instance: int | None = None


class DeviceTable(Taken, frozen=True):
    """``/proc/devices`` (name -> major) and MIG's capabilities (``gpu0/gi1/access`` -> minor)."""

    majors: dict[str, int] = msgspec.field(default_factory=dict)
    mig_minors: dict[str, int] = msgspec.field(default_factory=dict)


class UnitRules(Taken, frozen=True):
    """What systemd holds a slot's unit to, and which GPUs the unit says are the slot's.

    ``allow``: as ``systemctl show`` prints it. ``gpus``: UUIDs. ``engine``: it is that of the slot's
    container engine. ``settings``: of its sandbox, by name.
    """

    policy: str = ""
    allow: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    engine: bool = False
    settings: dict[str, str] = msgspec.field(default_factory=dict)


class Differences(msgspec.Struct, frozen=True):
    """What a unit's rules lack, and what they open besides; ``foreign`` is part of other slots' GPUs."""

    missing: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


def parse_majors(text: str) -> dict[str, int]:
    """``/proc/devices``: the character devices, name -> major."""
    part = text.partition("Character devices:")[2].partition("Block devices:")[0]
    rows = (line.split() for line in part.splitlines())
    return {row[1]: int(row[0]) for row in rows if len(row) == 2 and row[0].isdigit()}


def parse_mig_minors(text: str) -> dict[str, int]:
    """``mig-minors``: lines of a capability and its minor, ``gpu0/gi1/ci0/access 12``."""
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def parse_slot_unit(text: str) -> tuple[tuple[str, ...], bool]:
    """The GPUs that a drop-in gives to a slot's jobs, and whether it is that of a container engine."""
    found = _CLAIM.findall(text)
    claims = tuple(uuid for uuid in found[-1].split(",") if uuid and uuid != "-1") if found else ()
    return claims, "\nDeviceAllow=/dev/net/tun rw\n" in text


def parse_rules(shown: str, text: str, *, settings: Iterable[str] = ()) -> UnitRules:
    """What ``systemctl show`` prints of a unit, and the text of its drop-in."""
    pairs = [line.split("=", 1) for line in shown.splitlines() if "=" in line]
    fields = {pair[0]: pair[1] for pair in pairs}
    gpus, engine = parse_slot_unit(text)
    return UnitRules(
        policy=fields.get("DevicePolicy", ""),
        allow=tuple(value for name, value in pairs if name == "DeviceAllow" and value),
        gpus=gpus,
        engine=engine,
        settings={name: fields[name] for name in settings if name in fields},
    )


def places_of(gpus: Iterable[Gpu]) -> dict[str, Place]:
    """UUID -> place, of whole GPUs and MIG devices; what NVML did not tell is left out."""
    places: dict[str, Place] = {}
    for gpu in gpus:
        if gpu.minor is None:
            continue
        if gpu.uuid:
            places[gpu.uuid] = Place(gpu.minor)
        for mig in gpu.mig_devices:
            places[mig.uuid] = Place(gpu.minor, mig.gpu_instance, mig.compute_instance)
    return places


def resolve(
    claims: Sequence[str], places: Mapping[str, Place], *, table: DeviceTable, engine: bool = False
) -> tuple[Node, ...]:
    """The nodes of a slot with these GPUs; none for a slot without.

    Raises UnavailableError when a UUID is not there, or the driver does not tell a MIG device's nodes.
    """
    found: set[Node] = set(ENGINE_NODES) if engine else set()
    known = {uuid.lower(): place for uuid, place in places.items()}
    for uuid in claims:
        place = known.get(uuid.lower())
        if place is None:
            raise _absent(uuid, places)
        found |= {Node(NVIDIA, place.minor, f"/dev/nvidia{place.minor}"), *_capabilities(uuid, place, table)}
    if claims:
        found.add(Node(NVIDIA, CONTROL, "/dev/nvidiactl"))
        if _UVM in table.majors:
            major = table.majors[_UVM]
            found |= {Node(major, 0, "/dev/nvidia-uvm"), Node(major, 1, "/dev/nvidia-uvm-tools")}
    return tuple(sorted(found))


def _absent(uuid: str, places: Mapping[str, Place]) -> UnavailableError:
    kind = uuid.partition("-")[0]
    there = ", ".join(sorted(each for each in places if each.startswith(f"{kind}-"))) or "none"
    remedy = "put it back, or give the slot another one in inventory and provision again"
    return UnavailableError(f"is not on this host (there: {there})", where=uuid, remedy=remedy)


def _capabilities(uuid: str, place: Place, table: DeviceTable) -> list[Node]:
    """The capability nodes of a MIG device, or of all instances of a whole GPU that is cut into some."""
    top = f"gpu{place.minor}/"
    if place.gpu_instance is None:
        names = [name for name in table.mig_minors if name.startswith(top)]
    else:
        instance = f"{top}gi{place.gpu_instance}"
        names = [f"{instance}/access", f"{instance}/ci{place.compute_instance}/access"]
    missing = [name for name in names if name not in table.mig_minors]
    if missing or (names and _CAPS not in table.majors):
        what = f"its capability node is not told by the driver ({(missing or names)[0]})"
        remedy = (
            "look at /proc/driver/nvidia-caps/mig-minors and `nvidia-smi mig -lci`; make the MIG devices anew"
        )
        raise UnavailableError(what, where=uuid, remedy=remedy)
    minors = (table.mig_minors[name] for name in names)
    return [Node(table.majors[_CAPS], minor, f"/dev/nvidia-caps/nvidia-cap{minor}") for minor in minors]


def compare(allow: Iterable[str], nodes: Sequence[Node], *, table: DeviceTable) -> Differences:
    """Hold a unit's ``DeviceAllow`` entries (``/dev/char/195:0 rw``) against the nodes it should open."""
    wanted = {node.allow: node for node in nodes}
    numbers = {NVIDIA, *(table.majors[name] for name in (_UVM, _CAPS) if name in table.majors)}
    seen: set[str] = set()
    foreign: list[str] = []
    other: list[str] = []
    for entry in allow:
        path, _, access = entry.partition(" ")
        number = _by_number(path, wanted)
        if number in wanted:
            if {"r", "w"} <= set(access):
                seen.add(number)
        elif path not in _OF_SYSTEMD:
            (foreign if _is_gpu(path, number, numbers) else other).append(path)
    missing = tuple(node.path for allow, node in wanted.items() if allow not in seen)
    return Differences(missing, tuple(foreign), tuple(other))


def _by_number(path: str, wanted: Mapping[str, Node]) -> str:
    """The entry as ``/dev/char/MAJOR:MINOR`` where it is one, or has a path that we know."""
    for number, node in wanted.items():
        if path == node.path:
            return number
    found = _NUMBERED.match(path)
    if found and found[3]:
        return f"/dev/char/{NVIDIA}:{found[3]}"
    return f"/dev/char/{NVIDIA}:{CONTROL}" if path == "/dev/nvidiactl" else path


def _is_gpu(path: str, number: str, majors: set[int]) -> bool:
    found = _NUMBERED.match(number)
    return bool(_EVERY_GPU.match(path)) or bool(found and found[1] and int(found[1]) in majors)
