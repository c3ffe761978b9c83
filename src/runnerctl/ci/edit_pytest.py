"""The marker ``gpu``, registered, and a typo in a marker as an error. Pure.

Facts: docs.pytest.org, "Configuration" and "Working with custom markers".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from runnerctl.ci.edit_config import Config, is_true

__all__ = ["edit_pytest", "registered", "unregistered"]

MARKER = "gpu: needs a GPU; runs in the job gpu_tests"
# pytest's own, and those that widely used plugins register themselves.
_KNOWN = frozenset(
    [
        "parametrize",
        "skip",
        "skipif",
        "xfail",
        "usefixtures",
        "filterwarnings",
        "tryfirst",
        "trylast",
        "gpu",
        "asyncio",
        "anyio",
        "trio",
        "timeout",
        "flaky",
        "benchmark",
        "django_db",
        "xdist_group",
        "hypothesis",
        "order",
        "dependency",
        "forked",
        "vcr",
        "no_cover",
        "freeze_time",
        "respx_mock",
        "repeat",
        "mpl_image_compare",
    ]
)
_LINE = re.compile(r"""addinivalue_line\(\s*["']markers["'],\s*f?["'](\w+)""")
_USE = re.compile(r"^\s*(?:@|pytestmark\s*=\s*\[?\s*)pytest\.mark\.([A-Za-z_]\w*)", re.MULTILINE)


def edit_pytest(config: Config) -> None:
    """Register the marker and make unknown ones an error."""
    markers = config.items("", "markers")
    if not any(_name(line) == "gpu" for line in markers):
        config.extend("", "markers", [MARKER])
    options = config.text("", "addopts")
    strict = any(is_true(config.text("", key)) for key in ("strict_markers", "strict"))
    if not strict and not re.search(r"(^|\s)--strict(-markers)?(\s|$)", options or ""):
        if config.is_list("", "addopts"):
            config.extend("", "addopts", ["--strict-markers"])
        else:
            config.put("", "addopts", f"{options} --strict-markers" if options else "--strict-markers")


def _name(line: str) -> str:
    return re.split(r"[:(]", line, maxsplit=1)[0].strip()


def registered(conftests: Iterable[str]) -> frozenset[str]:
    """Markers that conftest files register by themselves."""
    return frozenset(name for text in conftests for name in _LINE.findall(text))


def unregistered(source: str, config: Config, more: frozenset[str] = frozenset()) -> list[str]:
    """Markers that a test file uses and neither settings nor ``more`` register, in order."""
    known = _KNOWN | more | {_name(line) for line in config.items("", "markers")}
    return sorted({name for name in _USE.findall(source) if name not in known})
