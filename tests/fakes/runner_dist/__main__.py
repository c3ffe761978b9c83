"""Command line: ``python -m tests.fakes.runner_dist --version 2.336.0 --out DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.fakes.runner_dist.build import ARCHITECTURES, build, sha256


def main() -> None:
    """Build one tarball per architecture asked for; print its SHA-256 and path."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.runner_dist", description=__doc__)
    parser.add_argument("--version", required=True, help="the runner's version, like 2.336.0")
    parser.add_argument("--architecture", choices=sorted(ARCHITECTURES), action="append", help="default: x64")
    parser.add_argument("--out", required=True, type=Path, help="directory for the tarball")
    parser.add_argument("--payload-mib", type=int, default=0, help="pad by so many MiB that do not compress")
    parser.add_argument("--needs-icu", action="store_true", help="abort without libicu, as .NET does")
    options = parser.parse_args()
    for architecture in options.architecture or ["x64"]:
        path = build(
            options.version,
            architecture,
            options.out,
            payload_mib=options.payload_mib,
            needs_icu=options.needs_icu,
        )
        print(f"{sha256(path)}  {path}")


if __name__ == "__main__":
    main()
