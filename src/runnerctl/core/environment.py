"""The environment that a runner and its jobs are given."""

from __future__ import annotations

from runnerctl.core.spec import HostSpec

__all__ = ["slot_environment"]


def slot_environment(spec: HostSpec) -> dict[str, str]:
    """The runner's environment: inventory's, and where conda is (``setup-miniconda`` reads ``CONDA``)."""
    conda = {"CONDA": "/opt/miniforge3"} if spec.conda.manage else {}
    return {**conda, **spec.github_runner.env}
