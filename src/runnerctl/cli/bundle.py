"""``runnerctl bundle``: collect what hosts without internet need, or verify what was collected."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import ApiUrlOption, InventoryOption, LimitOption, OutputOption, UrlOption
from runnerctl.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from runnerctl.bundle.manifest import Manifest
    from runnerctl.core.spec import HostSpec

__all__ = ["app", "bundle"]

SCHEMA = "runnerctl.bundled/1"
PARTS = ("runner", "miniforge", "wheels")
EXAMPLE = """
GH_TOKEN=... runnerctl bundle site.tar.gz --url https://github.com/acme
GH_TOKEN=... runnerctl bundle /srv/bundle -i inventory --architecture arm64
runnerctl bundle --verify site.tar.gz
"""
app = new_app()


@app.command("bundle", cls=Command, epilog=EXAMPLE)
def bundle(
    context: typer.Context,
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A directory, or an archive if it ends in .tar.gz.")
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every checksum of the bundle that is there.")
    ] = False,
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    url: UrlOption = None,
    api_url: ApiUrlOption = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            metavar="VERSION",
            help="The runner's version. Default: the one GitHub offers.",
            show_default=False,
        ),
    ] = None,
    architecture: Annotated[
        list[str] | None,
        typer.Option(
            "--architecture",
            metavar="x64|arm64",
            help="Of the hosts; may be repeated. Default: x64.",
            show_default=False,
        ),
    ] = None,
    python: Annotated[
        list[str] | None,
        typer.Option(
            "--python",
            metavar="VERSION",
            help="Of the hosts, as 3.11; may be repeated. Default: 3.10 to 3.13.",
            show_default=False,
        ),
    ] = None,
    conda_version: Annotated[
        str | None,
        typer.Option("--conda-version", metavar="VERSION", help="Of Miniforge.", show_default=False),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="URL", help="A repository's key; may be repeated.", show_default=False),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="runner|miniforge|wheels",
            help="Leave that out; may be repeated.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = None,
) -> int:
    """Collect what hosts without internet need.

    Run it on a machine that has internet: the runner, Miniforge, the wheels of runnerctl and of all that it
    depends on, and keys of package repositories go into one directory or archive, each with its SHA-256,
    compared before anything is kept. With -i, versions and addresses come from an inventory. A run that was
    cut off is taken up again by the next one.

    Bring the result to the controller and name it in runnerctl_bundle: the roles install from it, and the
    hosts need no internet.
    """
    command: Context = context.obj
    target = Path(os.path.expanduser(path))  # unlike Path's own, it never fails
    if verify:
        return _tell(command, target, _verified(target), output, done="is whole")
    choices = _Choices(
        _chosen("--architecture", architecture or ["x64"], ("x64", "arm64")),
        _pythons(python),
        _chosen("--without", without or [], PARTS),
        tuple(key or ()),
    )
    specs = _specs(command, inventory, limit)
    if not specs:
        specs = [_spec(url=url or command.env.get("RUNNERCTL_URL"), api_url=api_url, choices=choices)]
    specs = [_pinned(spec, version, conda_version) for spec in specs]
    manifest = _collect(command, target, specs, choices)
    return _tell(command, target, manifest, output, done="is complete")


class _Choices(NamedTuple):
    """What the options say beside the specs."""

    architectures: tuple[str, ...]
    pythons: tuple[str, ...]
    without: tuple[str, ...]
    keys: tuple[str, ...]


def _chosen(option: str, given: list[str], allowed: tuple[str, ...]) -> tuple[str, ...]:
    for value in given:
        if value not in allowed:
            raise UsageError(f"{value!r} is not known", where=option, remedy=f"give {' or '.join(allowed)}")
    return tuple(dict.fromkeys(given))


def _pythons(given: list[str] | None) -> tuple[str, ...]:
    import re

    from runnerctl.cli.bundle_parts import PYTHONS

    for value in given or ():
        if not re.fullmatch(r"3\.\d\d", value):
            raise UsageError(f"{value!r} is no Python version", where="--python", remedy="give it as 3.11")
    return tuple(dict.fromkeys(given or PYTHONS))


def _specs(context: Context, inventory: str | None, limit: str | None) -> list[HostSpec]:
    """The specs of an inventory; none without one. Raises ConfigError when one of them is wrong."""
    import msgspec

    from runnerctl.core.spec import HostSpec

    if inventory is None:
        if limit:
            raise UsageError("no inventory is given", where="--limit", remedy="add -i INVENTORY")
        return []
    from runnerctl.cli.inventory import resolve

    hosts = resolve(context, inventory, limit=limit)
    for host in hosts:
        for problem in host.problems:
            what = f"{problem['variable']}: {problem['message']}"
            raise ConfigError(what, where=host.host, remedy=problem["remedy"])
    return [msgspec.convert(host.spec, HostSpec) for host in hosts]


def _spec(*, url: str | None, api_url: str | None, choices: _Choices) -> HostSpec:
    """A spec made from the options alone."""
    from runnerctl.core.scope import parse_scope
    from runnerctl.core.spec import GithubRunner, HostSpec

    if "runner" in choices.without:
        return HostSpec(host="bundle", github_runner=GithubRunner(slots=()))
    if not url:
        remedy = "give --url or RUNNERCTL_URL, or -i INVENTORY; or leave it out: --without runner"
        raise UsageError("GitHub says per URL which runner it expects, and there is none", remedy=remedy)
    try:
        parse_scope(url)
    except ConfigError as error:
        raise UsageError(error.what, where="--url", remedy=error.remedy) from None
    return HostSpec(host="bundle", github_runner=GithubRunner(url=url, api_url=api_url))


def _pinned(spec: HostSpec, version: str | None, conda_version: str | None) -> HostSpec:
    """The spec with the versions that the command line asks for; a checksum of another one goes."""
    from msgspec.structs import replace

    runner, conda = spec.github_runner, spec.conda
    if version and version != runner.version:
        runner = replace(runner, version=version, sha256=None)
    if conda_version and conda_version != conda.version:
        conda = replace(conda, version=conda_version, sha256=None)
    return replace(spec, github_runner=runner, conda=conda)


def _collect(context: Context, target: Path, specs: list[HostSpec], choices: _Choices) -> Manifest:
    from functools import partial

    from runnerctl import __version__
    from runnerctl.bundle.collect import Collector, target_problem
    from runnerctl.cli import bundle_parts as parts
    from runnerctl.cli.output import rfc3339

    if problem := target_problem(target):
        raise UsageError(problem, where=str(target), remedy="give another path, or that of an older bundle")
    parts.trust(context.env)

    def tell(text: str) -> None:
        context.note(f"runnerctl: collecting {text}")

    wheels = partial(
        parts.fetch_wheels,
        pythons=choices.pythons,
        architectures=choices.architectures,
        extras=["env"] if any(spec.conda.store for spec in specs) else [],
        tell=tell,
    )
    collector = Collector(
        target,
        fetch=parts.fetch,
        read_key=parts.read_key,
        wheels=None if "wheels" in choices.without else wheels,
        tell=tell,
    )
    wanted = parts.wanted(
        specs,
        context.env,
        architectures=choices.architectures,
        keys=choices.keys,
        without=choices.without,
    )
    return collector.collect(wanted, made_at=rfc3339(context.clock()), tool_version=__version__)


def _verified(target: Path) -> Manifest:
    """The manifest of a bundle that is whole. Raises UsageError or DataError."""
    from runnerctl.bundle.archive import check_archive, is_archive
    from runnerctl.bundle.manifest import read, wrong_files
    from runnerctl.bundle.store import refuse_wrong

    if not target.exists():
        raise UsageError("there is no such bundle", where=str(target), remedy="check the path")
    if is_archive(target):
        return check_archive(target)
    manifest = read(target)
    refuse_wrong(wrong_files(target, manifest), where=str(target))
    return manifest


def _tell(context: Context, target: Path, manifest: Manifest, output: str | None, *, done: str) -> int:
    import hashlib

    import msgspec

    from runnerctl.cli.output import escape, table

    # Whoever can change a file can change its checksum, too: this one is to be compared with the maker's.
    own = hashlib.sha256(manifest.encode()).hexdigest()
    size = sum(file.size_bytes for file in manifest.files)
    if context.wants_json(output):
        answer: dict[str, Any] = {"schema": SCHEMA, "path": str(target), "size_bytes": size, "sha256": own}
        facts = {"made_at": manifest.made_at, "tool_version": manifest.tool_version}
        context.say_json({**answer, **facts, "files": msgspec.to_builtins(manifest.files)})
        return 0
    rows = [
        (kind, version, architecture, f"{total / 1e6:.1f} MB", files)
        for (kind, version, architecture), (total, files) in _summary(manifest).items()
    ]
    context.say(table(("WHAT", "VERSION", "FOR", "SIZE", "FILES"), rows, width=context.width))
    count = f"{len(manifest.files)} file{'s' * (len(manifest.files) != 1)}"
    context.say(f"{escape(str(target))} {done}: {count}, {size / 1e6:.1f} MB")
    context.say(f"SHA-256 of all checksums: {own}")
    return 0


def _summary(manifest: Manifest) -> dict[tuple[str, str | None, str | None], tuple[int, int]]:
    """Kind, version and architecture -> bytes and number of files; all wheels together."""
    found: dict[tuple[str, str | None, str | None], tuple[int, int]] = {}
    for file in manifest.files:
        version = None if file.kind == "wheel" else file.version
        key = (file.kind, version, file.architecture)
        total, files = found.get(key, (0, 0))
        found[key] = (total + file.size_bytes, files + 1)
    return found
