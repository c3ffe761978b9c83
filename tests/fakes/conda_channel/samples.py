"""Small packages that show one thing each."""

from __future__ import annotations

from collections.abc import Sequence

from tests.fakes.conda_channel.archive import MTIME, PLACEHOLDER, CondaPackage, Script

__all__ = ["BROKEN", "samples", "smallfiles", "tampered"]

ACTIVATE = f"""export SAMPLE_HOME="$CONDA_PREFIX/share/activated"
export SAMPLE_TEXT='two
lines'
export SAMPLE_LITERAL={PLACEHOLDER}/share
export LD_LIBRARY_PATH="$CONDA_PREFIX/lib"
export PATH="$CONDA_PREFIX/sbin:$PATH"
sample_function() {{ echo called; }}
"""
DEACTIVATE = "unset SAMPLE_HOME SAMPLE_TEXT SAMPLE_LITERAL\n"
POST_LINK = '#!/bin/sh\necho linked > "$PREFIX/post-link-ran"\n'
BROKEN = CondaPackage("broken", "1.0", files={"share/broken": "as it was indexed\n"}, noarch="generic")


def samples() -> list[CondaPackage]:
    """Every one of them; ``README.md`` says what each is for."""
    return [
        _torchlike("2.9.0", "cuda_1", build_number=100, depends=("__cuda >=12.0",)),
        _torchlike("2.9.0", "cpu_1"),
        _torchlike("2.8.0", "cpu_0"),
        *(_tiny(version, day) for version, day in (("1.0", 0), ("1.1", 100), ("2.0", 200))),
        CondaPackage("needs-tiny-1", "1.0", depends=["tiny <2"], noarch="generic"),
        CondaPackage("needs-tiny-2", "1.0", depends=["tiny >=2"], noarch="generic"),
        CondaPackage("needs-nothing-known", "1.0", depends=["no-such-package >=1"], noarch="generic"),
        CondaPackage("activated", "1.0", files=_activated()),
        CondaPackage("post-linked", "1.0", files={"bin/.post-linked-post-link.sh": Script(POST_LINK)}),
        BROKEN,
    ]


def smallfiles(count: int, *, file_bytes: int = 1024, modules: int = 0) -> CondaPackage:
    """A package of ``count`` small files, no two alike, ``modules`` of them Python to be compiled."""
    size = file_bytes // 16
    files = {f"share/smallfiles/{i // 500:03}/{i:06}": f"{i:016}" * size for i in range(count - modules)}
    lines = [f"def function_{n}(a, b={n}):\n    return [a, b, {n}]\n" for n in range(20)]
    code = {f"site-packages/smallfiles/m{i:05}.py": f"N = {i}\n" + "\n".join(lines) for i in range(modules)}
    return CondaPackage(
        "smallfiles",
        f"{count}.{file_bytes}.{modules}",
        depends=["python"] if modules else [],
        files=files | code,
        noarch="python" if modules else "generic",
    )


def tampered() -> CondaPackage:
    """What stands in the place of `BROKEN` in the channel: the index has another hash."""
    return CondaPackage("broken", "1.0", files={"share/broken": "as somebody made it\n"}, noarch="generic")


def _torchlike(
    version: str, build: str, *, build_number: int = 0, depends: Sequence[str] = ()
) -> CondaPackage:
    files = {"share/torchlike/flavour": f"{build}\n", "etc/torchlike.conf": f"home = {PLACEHOLDER}/share\n"}
    return CondaPackage("torchlike", version, build, build_number, depends, files=files)


def _tiny(version: str, day: int) -> CondaPackage:
    made = MTIME + day * 86400
    return CondaPackage(
        "tiny", version, files={"share/tiny": f"{version}\n"}, noarch="generic", timestamp_seconds=made
    )


def _activated() -> dict[str, str]:
    return {
        "etc/conda/activate.d/activated.sh": ACTIVATE,
        "etc/conda/deactivate.d/activated.sh": DEACTIVATE,
        "etc/conda/env_vars.d/activated.json": '{"SAMPLE_FROM_JSON": "yes"}\n',
        "share/activated/README": "here\n",
        "sbin/sample-tool": Script("#!/bin/sh\necho tool\n"),
    }
