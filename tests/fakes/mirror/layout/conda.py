#!/usr/bin/python3 -IBS
"""The few conda commands that an installation is judged by."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

VERSION = "@VERSION@"
MAMBA_VERSION = "2.5.0"
PREFIX = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def sources() -> list[str]:
    """Configuration files that exist, in the order conda reads them."""
    found: list[str] = []
    for base in ("/etc/conda", "/var/lib/conda"):
        found += [f"{base}/.condarc", f"{base}/condarc"]
        directory = f"{base}/condarc.d"
        if os.path.isdir(directory):
            names = sorted(os.listdir(directory))
            found += [f"{directory}/{name}" for name in names if name.endswith((".yml", ".yaml"))]
    home = os.path.expanduser("~")
    found += [f"{PREFIX}/.condarc", f"{PREFIX}/condarc", f"{home}/.conda/condarc", f"{home}/.condarc"]
    found += [path for path in (os.environ.get("CONDARC"),) if path]
    return [path for path in found if os.path.isfile(path)]


def parsed(path: str) -> dict[str, Any]:
    """The keys of one configuration file: scalars, [flow, lists] and lists of dashes."""
    values: dict[str, Any] = {}
    key = ""
    with open(path, encoding="utf-8") as file:
        lines = [line.split("#", 1)[0].rstrip() for line in file]
    for line in lines:
        if line.strip().startswith("- ") and key:
            if not isinstance(values[key], list):
                values[key] = []
            values[key].append(line.strip()[2:].strip())
        elif ":" in line and not line.startswith(" "):
            key, _, value = line.partition(":")
            values[key] = scalar(value.strip())
    return values


def scalar(text: str) -> str | bool | list[str]:
    """A value as YAML would read it, as far as condarc needs it."""
    if text.startswith("[") and text.endswith("]"):
        return [part.strip() for part in text[1:-1].split(",") if part.strip()]
    return text == "true" if text in ("true", "false") else text


def merged() -> dict[str, Any]:
    """What all files together say; lists are joined, the later file first."""
    values: dict[str, Any] = {}
    for path in sources():
        for key, value in parsed(path).items():
            old = values.get(key)
            if isinstance(value, list) and isinstance(old, list):
                value = value + [item for item in old if item not in value]
            values[key] = value
    return values


def info(words: list[str]) -> None:
    """conda info"""
    settings = merged()
    home = os.path.expanduser("~")
    facts = {
        "conda_version": VERSION,
        "root_prefix": PREFIX,
        "conda_prefix": PREFIX,
        "default_prefix": PREFIX,
        "channels": settings.get("channels", []),
        "config_files": sources(),
        "envs_dirs": settings.get("envs_dirs", [f"{PREFIX}/envs", f"{home}/.conda/envs"]),
        "pkgs_dirs": settings.get("pkgs_dirs", [f"{PREFIX}/pkgs", f"{home}/.conda/pkgs"]),
        "envs": [PREFIX],
        "platform": "linux-aarch64" if os.uname().machine == "aarch64" else "linux-64",
        "python_version": "3.13.12.final.0",
        "offline": False,
    }
    if "--json" in words:
        print(json.dumps(facts, indent=2))
    elif "--base" in words:
        print(PREFIX)
    else:
        print("\n".join(f"{key.replace('_', ' ')} : {value}" for key, value in facts.items()))


def config(words: list[str]) -> None:
    """conda config --show-sources, --show [KEY]..., --json, --get KEY"""
    if "--show-sources" in words:
        if "--json" in words:
            print(json.dumps({path: parsed(path) for path in sources()}, indent=2))
            return
        for path in sources():
            with open(path, encoding="utf-8") as file:
                print(f"==> {path} <==\n{file.read()}")
        return
    wanted = [word for word in words if not word.startswith("-")]
    values = {key: value for key, value in merged().items() if not wanted or key in wanted}
    print(json.dumps(values, indent=2))


def packages(words: list[str]) -> None:
    """conda list"""
    records = []
    for name in sorted(os.listdir(f"{PREFIX}/conda-meta")):
        if name.endswith(".json"):
            with open(f"{PREFIX}/conda-meta/{name}", encoding="utf-8") as file:
                records.append(json.load(file))
    if "--json" in words:
        keys = ("name", "version", "channel")
        print(
            json.dumps(
                [
                    {**{key: record[key] for key in keys}, "build_string": record["build"]}
                    for record in records
                ]
            )
        )
        return
    print(f"# packages in environment at {PREFIX}:\n#")
    for record in records:
        print(f"{record['name']:<12} {record['version']:<12} {record['build']:<14} conda-forge")


def main(words: list[str]) -> int:
    """Run one command; returns the exit code."""
    mamba = os.path.basename(sys.argv[0]) == "mamba"
    if words[:1] in (["--version"], ["-V"]):
        print(MAMBA_VERSION if mamba else f"conda {VERSION}")
        return 0
    command = {"info": info, "config": config, "list": packages}.get(words[0] if words else "")
    if command is None:
        print(f"this conda knows --version, info, config and list, not: {' '.join(words)}", file=sys.stderr)
        return 2
    command(words[1:])
    return 0


sys.exit(main(sys.argv[1:]))
