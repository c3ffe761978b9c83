"""What an ``environment.yml`` has, and what of the jobs' tools it lacks. Needs the extra ``ci``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from runnerctl.ci.edit_yaml import add_items, block_list, document
from runnerctl.errors import DataError

__all__ = ["Needs", "add_packages", "build_needs", "cuda_version", "included_files", "normal", "packages"]

_CONDA = re.compile(r"^(?:[^:\s]+::)?\s*([A-Za-z0-9_][\w.-]*)")
_CUDA = re.compile(r"^(?:[^:\s]+::)?(?:cuda-version|cuda-toolkit|cudatoolkit|pytorch-cuda|cuda)\s*(.*)$")
_VERSION = re.compile(r"^==?\s*([0-9]+\.[0-9]+)(?:[.*\d]*)(?:=.*)?$")
_SIMPLE = re.compile(r"^([A-Za-z0-9][\w.-]*)\s*(>=\s*[0-9][\w.]*)?$")
_INCLUDED = re.compile(r"^(?:-r|--requirement)[ =]*(\S+)$")
# Tools of the jobs, and packages that bring them along.
_BRINGS = {
    "coverage": ("pytest-cov",),
    "python": ("python-freethreading", "python-gil"),
    "pre-commit": ("prek",),
}
# Build back ends that conda-forge has under the same name.
_BACK_ENDS = frozenset(
    [
        "cython",
        "flit-core",
        "hatch-vcs",
        "hatchling",
        "maturin",
        "meson-python",
        "nanobind",
        "ninja",
        "numpy",
        "pdm-backend",
        "poetry-core",
        "pybind11",
        "scikit-build-core",
        "setuptools",
        "setuptools-scm",
        "versioneer",
        "wheel",
    ]
)


class Needs(NamedTuple):
    """Packages to have: conda's, as specs, and pip's."""

    conda: tuple[str, ...]
    pip: tuple[str, ...] = ()


def normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages(text: str, where: str) -> tuple[list[str], list[str]]:
    """Conda's specs and pip's lines. Raises DataError for a file that has no list of dependencies."""
    dependencies = document(text, where).get("dependencies")
    if not isinstance(dependencies, list) or not dependencies:
        remedy = "list the packages below `dependencies:`"
        raise DataError("has no dependencies", where=where, remedy=remedy)
    conda = [item.strip() for item in dependencies if isinstance(item, str)]
    return conda, [str(line).strip() for part in _pip(dependencies) for line in part]


def _pip(dependencies: Any) -> Iterator[Any]:
    for item in dependencies:
        if isinstance(item, dict) and isinstance(item.get("pip"), list):
            yield item["pip"]


def included_files(lines: Sequence[str]) -> list[str]:
    """Files that pip's lines name with ``-r``."""
    return [found[1] for line in lines if (found := _INCLUDED.match(line))]


def build_needs(requires: Sequence[str]) -> tuple[list[str], list[str]]:
    """A project's build requirements as conda specs, and those whose name there is not known."""
    known: list[str] = []
    unknown: list[str] = []
    for text in requires:
        found = _CONDA.match(text)
        name = normal(found[1]) if found else text
        simple = _SIMPLE.match(text.strip())
        bound = simple[2] if simple and simple[2] else ""
        known.append(name + bound) if name in _BACK_ENDS else unknown.append(name)
    return known, unknown


def cuda_version(specs: Sequence[str]) -> tuple[str | None, bool]:
    """The CUDA version that specs pin (``12.8``), and whether anything of CUDA is there at all."""
    version = None
    for spec in specs:
        found = _CUDA.match(spec)
        pinned = _VERSION.match(found[1].strip()) if found else None
        version = version or (pinned[1] if pinned else None)
    return version, any(re.search(r"cuda|cudnn", spec, re.IGNORECASE) for spec in specs)


def missing(needs: Needs, have: set[str]) -> Needs:
    """What of ``needs`` is neither there nor brought along by something that is."""

    def lacks(spec: str) -> bool:
        found = _CONDA.match(spec)
        name = normal(found[1]) if found else spec
        return not have & {name, *_BRINGS.get(name, ())}

    return Needs(tuple(filter(lacks, needs.conda)), tuple(filter(lacks, needs.pip)))


def names(lines: Sequence[str]) -> set[str]:
    """Names of the packages that specs or pip's lines ask for."""
    return {normal(found[1]) for line in lines if (found := _CONDA.match(line))}


def add_packages(text: str, where: str, lacking: Needs) -> str | None:
    """The file with what it lacks; None when it is laid out in a way that no line can be added to."""
    dependencies = document(text, where)["dependencies"]
    if not block_list(dependencies):
        return None
    pip = next(_pip(dependencies), None)
    if lacking.pip and pip is not None:
        if not block_list(pip):
            return None
        text = add_items(text, pip, [f"- {line}" for line in lacking.pip])
    elif lacking.pip:
        text = add_items(text, dependencies, ["- pip:", *(f"    - {line}" for line in lacking.pip)])
    plain = [at for at, item in enumerate(dependencies) if isinstance(item, str)]
    if lacking.conda and not plain:
        return None
    if lacking.conda:
        text = add_items(text, dependencies, [f"- {spec}" for spec in lacking.conda], after=plain[-1])
    return text if _holds(text, where, lacking, dependencies) else None


def _holds(text: str, where: str, lacking: Needs, before: Any) -> bool:
    """Whether the file can be read, and has what it had and what was added."""
    try:
        conda, pip = packages(text, where)
    except DataError:
        return False
    old = [item.strip() for item in before if isinstance(item, str)]
    return set(conda) == {*old, *lacking.conda} and set(lacking.pip) <= set(pip)
