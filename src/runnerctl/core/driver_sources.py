"""Where a driver's packages come from: names, repositories, keys and pins of every distribution.

Headless packages only: nothing here pulls in a display server. Sources: Debian's and Ubuntu's package
archives; NVIDIA's driver installation guide (compute-only installation, version locking); the keys that
NVIDIA's repositories publish.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from runnerctl.core.driver_structs import DriverFacts, Flavour, Headers, Pin, Repository, Source
from runnerctl.core.gpu_generations import NEWEST_BRANCH
from runnerctl.core.repository_keys import key_address
from runnerctl.core.sections import NvidiaDriver
from runnerctl.core.templates import fill

__all__ = [
    "OLDEST_BRANCH",
    "Choice",
    "Fabric",
    "Parts",
    "branches",
    "is_known",
    "missing_fabric",
    "parts",
    "shown_source",
]

Fabric = Literal["none", "switches", "subnet"]  # NVSwitch: none; fabric manager; subnet manager as well

DEB_KEY = ("3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC")
DEB13_KEY = ("8793F200.pub", "02182E60104FCDC26EAE1B8597A5D4CB8793F200")
RPM_KEY = ("D42D0685.pub", "610C7B14E068A878070DA4E99CD0A493D42D0685")

OLDEST_BRANCH = 535  # older ones get no fixes any more
DEFAULT_BRANCH = 580  # long-term support, and the last one for Maxwell to Volta
UNSUFFIXED = 590  # from here NVIDIA's packages for Ubuntu carry no branch in their names
PINNED = 580  # from here NVIDIA's apt repositories have nvidia-driver-pinning-<branch>
DISTRIBUTION_BRANCHES = {
    ("debian", "12"): (535,),
    ("debian", "13"): (550,),
    ("ubuntu", "22.04"): (580, 595),  # 535 to 575 are transitional packages there
    ("ubuntu", "24.04"): (580, 595),
}
ENTERPRISE_LINUX, ENTERPRISE_LINUX_RELEASE = ("rhel", "rocky", "almalinux"), "9"
UBUNTU_KERNEL = {
    "22.04": (5, 15),
    "24.04": (6, 8),
}  # of the release itself; a newer one is from the hwe series
# The container toolkit's packages (nvidia-container-*, libnvidia-container*) belong to another role.
DRIVER_PACKAGES = (
    "nvidia-[!c]*",
    "nvidia-compute-*",
    "nvidia-cuda-mps",
    "libnvidia-[!c]*",
    "libnvidia-c[!o]*",
    "libnvidia-com*",
    "libcuda1",
    "libcudadebugger1",
    "firmware-nvidia-*",
    "linux-modules-nvidia-*",
    "linux-objects-nvidia-*",
    "linux-signatures-nvidia-*",
    "cuda-drivers*",
)
UPGRADE_BLACKLIST = (
    "nvidia-",
    "libnvidia-",
    "libcuda1",
    "firmware-nvidia-",
    "linux-modules-nvidia-",
    "linux-objects-nvidia-",
    "linux-signatures-nvidia-",
    "cuda-drivers",
)


class Choice(msgspec.Struct, frozen=True):
    """A driver: where from, which branch (580), which kernel modules."""

    source: Source
    branch: int
    flavour: Flavour


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a `DriverPlan` that a source decides."""

    packages: tuple[str, ...]
    components: tuple[str, ...] = ()
    repositories: tuple[Repository, ...] = ()
    pins: tuple[Pin, ...] = ()
    prerequisites: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    headers: Headers | None = None
    hold: tuple[str, ...] = (*DRIVER_PACKAGES, "nvlsm")
    upgrade_blacklist: tuple[str, ...] = UPGRADE_BLACKLIST
    module_names: tuple[str, ...] = ("nvidia",)
    dkms: bool = False
    prebuilt_signed: bool = False


def is_known(facts: DriverFacts) -> bool:
    """Whether the names of a driver's packages are known for this distribution and release."""
    if facts.os_id in ENTERPRISE_LINUX:
        return facts.os_version.partition(".")[0] == ENTERPRISE_LINUX_RELEASE
    return (facts.os_id, facts.os_version) in DISTRIBUTION_BRANCHES


def shown_source(source: Source, facts: DriverFacts) -> str:
    """A source as a message calls it."""
    return "NVIDIA's repository" if source == "nvidia" else f"the archive of {facts.os_id} {facts.os_version}"


def branches(source: Source, facts: DriverFacts) -> tuple[int, ...]:
    """The branches to try from a source, the best first; none when it has no driver."""
    if source == "nvidia":
        return (DEFAULT_BRANCH, NEWEST_BRANCH)
    return DISTRIBUTION_BRANCHES.get((facts.os_id, facts.os_version), ())


def missing_fabric(source: Source, facts: DriverFacts, fabric: Fabric) -> str | None:
    """What a source lacks for the NVSwitches of a host, or None."""
    if source == "nvidia" or fabric == "none":
        return None
    if facts.os_id == "debian":
        return "it has no fabric manager, which NVSwitches need"
    return "it has no subnet manager, which this board's NVSwitches need" if fabric == "subnet" else None


def parts(
    choice: Choice, spec: NvidiaDriver, facts: DriverFacts, *, fabric: Fabric, key_text: str | None = None
) -> Parts:
    """Packages and repositories of a driver. ``key_text``: the key, unless the spec gives its address."""
    if choice.source == "distribution":
        made = _debian(choice, spec, facts) if facts.os_id == "debian" else _ubuntu(choice, facts, fabric)
    elif facts.os_id == "debian":
        made = _nvidia_debian(choice, spec, facts, fabric)
    elif facts.os_id == "ubuntu":
        made = _nvidia_ubuntu(choice, spec, facts, fabric)
    else:
        made = _nvidia_rhel(choice, spec, facts, fabric)
    if choice.source == "nvidia":
        repository = _repository(choice, spec, facts, key_text=key_text)
        made = msgspec.structs.replace(made, repositories=(repository,))
    return msgspec.structs.replace(made, versions=_versions(choice, made.packages, spec.version))


def _debian(choice: Choice, spec: NvidiaDriver, facts: DriverFacts) -> Parts:
    modules = "nvidia-open-kernel-dkms" if choice.flavour == "open" else "nvidia-kernel-dkms"
    packages = [modules, "libcuda1", "libnvidia-ml1", "nvidia-driver-bin", "nvidia-smi"]
    return Parts(
        packages=(*packages, *(["nvidia-persistenced"] if spec.persistence else [])),
        components=("contrib", "non-free", "non-free-firmware"),
        pins=(Pin(DRIVER_PACKAGES, "release o=NVIDIA", -1),),
        headers=_debian_headers(facts),
        module_names=("nvidia-current", "nvidia"),
        dkms=True,
    )


def _ubuntu(choice: Choice, facts: DriverFacts, fabric: Fabric) -> Parts:
    """Ubuntu's server series with the modules that Ubuntu builds and signs."""
    series = f"{choice.branch}-server"
    modules = f"{series}-open" if choice.flavour == "open" else series
    meta = f"linux-modules-nvidia-{modules}-{_ubuntu_kernel(facts)}"
    # Modules for the running kernel, where there are some: else only the next boot has the driver.
    running = [f"linux-modules-nvidia-{modules}-{facts.kernels[0]}|{meta}"] if facts.kernels else []
    packages = [*running, meta, f"nvidia-headless-no-dkms-{modules}", f"nvidia-utils-{series}"]
    packages += [f"nvidia-compute-utils-{series}"]
    packages += [f"nvidia-fabricmanager-{choice.branch}"] if fabric != "none" else []
    return Parts(
        packages=tuple(packages),
        components=("restricted", *(["multiverse"] if fabric != "none" else [])),
        pins=(Pin(DRIVER_PACKAGES, "release o=NVIDIA", -1),),
        prebuilt_signed=True,
    )


def _nvidia_debian(choice: Choice, spec: NvidiaDriver, facts: DriverFacts, fabric: Fabric) -> Parts:
    modules = "nvidia-kernel-open-dkms" if choice.flavour == "open" else "nvidia-kernel-dkms"
    packages = [*_pinning(choice, spec), "nvidia-driver-cuda", modules, "nvidia-persistenced"]
    return Parts(
        packages=(*packages, *_deb_fabric(choice, fabric)),
        components=("contrib",),  # small packages that NVIDIA's depend on
        pins=(_version_pin(choice, spec),),
        headers=_debian_headers(facts),
        module_names=("nvidia-current", "nvidia"),
        dkms=True,
    )


def _nvidia_ubuntu(choice: Choice, spec: NvidiaDriver, facts: DriverFacts, fabric: Fabric) -> Parts:
    tail = "-open" if choice.flavour == "open" else ""
    if choice.branch >= UNSUFFIXED:
        packages = ["libnvidia-compute", f"nvidia-dkms{tail}", "nvidia-persistenced"]
    else:
        branch = choice.branch
        packages = [f"libnvidia-compute-{branch}", f"nvidia-dkms-{branch}{tail}"]
        packages += [f"nvidia-utils-{branch}", f"nvidia-compute-utils-{branch}"]  # nvidia-smi, persistenced
    return Parts(
        packages=(*_pinning(choice, spec), *packages, *_deb_fabric(choice, fabric)),
        # Ubuntu has packages of the same names: one of theirs between NVIDIA's does not load.
        pins=(Pin(DRIVER_PACKAGES, "release o=Ubuntu", -1), _version_pin(choice, spec)),
        headers=Headers(f"linux-headers-{_ubuntu_kernel(facts)}", "linux-headers-{kernel}"),
        dkms=True,
    )


def _nvidia_rhel(choice: Choice, spec: NvidiaDriver, facts: DriverFacts, fabric: Fabric) -> Parts:
    modules = "kmod-nvidia-open-dkms" if choice.flavour == "open" else "kmod-nvidia-latest-dkms"
    manager = "nvidia-fabricmanager" if choice.branch >= PINNED else "nvidia-fabric-manager"
    packages = ["nvidia-driver-cuda", modules, "nvidia-persistenced"]
    packages += [manager] if fabric != "none" else []
    packages += ["nvlsm"] if fabric == "subnet" else []
    return Parts(
        packages=tuple(packages),
        # DKMS is in EPEL: these two have a package that adds it, on RHEL itself the host must have it.
        prerequisites=() if facts.os_id == "rhel" else ("epel-release",),
        headers=Headers("kernel-devel-matched", "kernel-devel-{kernel}"),
        hold=(f"*nvidia*{spec.version or choice.branch}*",),  # a pattern of name and version
        upgrade_blacklist=(),
        dkms=True,
    )


def _pinning(choice: Choice, spec: NvidiaDriver) -> list[str]:
    """NVIDIA's own preferences for apt: they also serve those who install by hand later."""
    return [f"nvidia-driver-pinning-{spec.version or choice.branch}"] if choice.branch >= PINNED else []


def _version_pin(choice: Choice, spec: NvidiaDriver) -> Pin:
    """One version for all packages, the fabric manager too; above 1000, so that it may also go back."""
    wanted = f"{spec.version}-*" if spec.version else f"{choice.branch}.*"
    return Pin(DRIVER_PACKAGES, f"version {wanted}", 1001)


def _deb_fabric(choice: Choice, fabric: Fabric) -> list[str]:
    """NVIDIA renamed the fabric manager: with the branch before 580, both in 580, without from 590 on."""
    if fabric == "none":
        return []
    old, new = f"nvidia-fabricmanager-{choice.branch}", "nvidia-fabricmanager"
    name = new if choice.branch >= UNSUFFIXED else f"{old}|{new}" if choice.branch >= PINNED else old
    return [name, *(["nvlsm"] if fabric == "subnet" else [])]


def _versions(choice: Choice, packages: tuple[str, ...], version: str | None) -> dict[str, str]:
    """The version wanted of every package that carries the driver's version.

    The distributions' persistence daemon has versions of its own.
    """
    if version is None:
        return {}
    daemon = "" if choice.source == "nvidia" else "|nvidia-persistenced"
    own = re.compile(rf"nvidia-driver-pinning-.*|nvlsm|linux-modules-nvidia-.*{daemon}")
    names = [name for item in packages for name in item.split("|") if not own.fullmatch(name)]
    return dict.fromkeys(names, f"{version}-*")


def _repository(
    choice: Choice, spec: NvidiaDriver, facts: DriverFacts, *, key_text: str | None
) -> Repository:
    rpm = facts.os_id not in ("debian", "ubuntu")
    place = f"rhel{facts.os_version.partition('.')[0]}" if rpm else _deb_place(facts)
    architecture = "x86_64" if facts.machine == "x86_64" else "sbsa"
    url = fill(spec.repository_url, distribution=place, architecture=architecture).rstrip("/")
    file, fingerprint = RPM_KEY if rpm else DEB13_KEY if place == "debian13" else DEB_KEY
    stream = f"{choice.branch}-open" if choice.flavour == "open" else f"{choice.branch}-dkms"
    return Repository(
        name="nvidia",
        format="rpm" if rpm else "apt",
        url=url,
        suite="" if rpm else "/",
        key_url=None if key_text else key_address(spec.repository_key) or f"{url}/{file}",
        key_text=key_text,
        key_fingerprint=_plain_fingerprint(spec.repository_key_fingerprint) or fingerprint,
        module_stream=f"nvidia-driver:{stream}" if rpm else None,
    )


def _deb_place(facts: DriverFacts) -> str:
    return f"{facts.os_id}{facts.os_version.replace('.', '')}"


def _plain_fingerprint(text: str | None) -> str | None:
    return text.replace(" ", "").upper() if text else None


def _debian_headers(facts: DriverFacts) -> Headers:
    """The metapackage of the running kernel's kind: plain, cloud or real-time."""
    architecture = "amd64" if facts.machine == "x86_64" else "arm64"
    match = re.search(rf"-((?:cloud|rt)-)?{architecture}$", facts.kernels[0]) if facts.kernels else None
    kind = match[1] or "" if match else ""
    return Headers(f"linux-headers-{kind}{architecture}", "linux-headers-{kernel}")


def _ubuntu_kernel(facts: DriverFacts) -> str:
    """The series of the running kernel, as the metapackages are called: generic, generic-hwe-24.04, aws."""
    match = re.match(r"(\d+)\.(\d+)\.\d+-\d+-([a-z][a-z0-9-]*)$", facts.kernels[0]) if facts.kernels else None
    if match is None:
        return "generic"
    own = UBUNTU_KERNEL[facts.os_version]
    newer = (int(match[1]), int(match[2])) > own
    return f"generic-hwe-{facts.os_version}" if match[3] == "generic" and newer else match[3]
