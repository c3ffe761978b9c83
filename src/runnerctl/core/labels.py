"""The labels a slot should have, and how two sets of labels compare."""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.errors import ConfigError

__all__ = [
    "ARCHITECTURES",
    "DERIVED",
    "DRAINED",
    "READ_ONLY",
    "architecture_label",
    "check_label",
    "custom_labels",
    "is_derived",
    "normalise",
]

# `uname -m` -> GitHub's name for it (actions/runner, Constants.Architecture).
ARCHITECTURES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
# What GitHub adds by itself and reports as type `read-only`.
READ_ONLY = frozenset({"self-hosted", "linux", "x64", "arm64", "arm"})
# The only custom label of a runner that was cut from routing; no inventory may use it.
DRAINED = "runnerctl-drained"
# What the layout derives from a slot's GPUs; each is a family of labels that begin alike.
DERIVED = ("gpu-model-", "gpu-count-", "gpu-vram-", "gpu-cc-", "gpu-cuda-", "gpu-driver-", "gpu-mig-")
MAX_LENGTH = 256  # actions/runner, ConfigurationManager: a longer label is refused


def architecture_label(machine: str) -> str:
    """GitHub's label for an architecture as ``uname -m`` prints it. Raises ConfigError for any other."""
    try:
        return ARCHITECTURES[machine]
    except KeyError:
        raise ConfigError(
            f"architecture {machine!r} is not supported", remedy="use an x86_64 or aarch64 host"
        ) from None


def check_label(label: str) -> str | None:
    """What is wrong with a label, or None.

    A comma separates labels on ``config.sh``'s command line; GitHub takes up to 256 characters.
    """
    if not label.strip() or label != label.strip():
        return "is empty or begins or ends with a space"
    if "," in label:
        return "contains a comma"
    if len(label) > MAX_LENGTH:
        return f"has {len(label)} characters, more than {MAX_LENGTH}"
    if label.startswith("-"):
        return "begins with a hyphen"  # config.sh would take it for an option
    if not label.isprintable():
        return "contains a control character"
    return None


def normalise(labels: Iterable[str]) -> frozenset[str]:
    """GitHub compares labels without case and returns them in no order: compare as lower-cased sets."""
    return frozenset(label.lower() for label in labels)


def is_derived(label: str) -> bool:
    """Whether a label is of a family that the layout derives."""
    return label.lower().startswith(DERIVED)


def custom_labels(
    own: Iterable[str], *, gpus: bool, fixed: bool = True, derived: Iterable[str] = ()
) -> tuple[str, ...]:
    """The custom labels of a slot: inventory's own, ``gpu`` when it has GPUs, and the derived ones.

    Sorted, lower-cased. Of a family that inventory names a label of itself, nothing is derived. The ``fixed``
    ones (``self-hosted``, ``linux``, the architecture) are GitHub's to add; without them an inventory may
    name them itself.
    """
    wanted = normalise(own) | ({"gpu"} if gpus else set())
    taken = tuple(family for family in DERIVED if any(label.startswith(family) for label in wanted))
    wanted |= {label for label in normalise(derived) if not (taken and label.startswith(taken))}
    return tuple(sorted(wanted - READ_ONLY if fixed else wanted))
