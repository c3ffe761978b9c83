"""The commands about environments, from a user's own store and a channel made here; one real environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.component.cli_support import Ran, call, host_json, spawn
from tests.fakes.conda_channel import build_channel

SPECS = ("python", "pip", "setuptools", "wheel", "pytest", "activated", "tiny=1.*")
SETUP = """
from setuptools import setup
setup(name="mine", version="1", packages=["mine"], entry_points={"console_scripts": ["mine=mine:main"]})
"""


@dataclass(frozen=True)
class Site:
    """A directory with a file, and a store that has its environment. ``first``: what the build answered."""

    root: Path
    channel: str
    first: Any

    @property
    def file(self) -> str:
        return str(self.root / "environment.yml")

    def ran(self, *arguments: str, **env: str) -> Ran:
        given = {"HOME": str(self.root), "PATH": os.environ["PATH"], **env}
        return call("env", *arguments, "--store", str(self.root / "store"), env=given, root=self.root)

    def process(self, *arguments: str, **env: str) -> Ran:
        return spawn("env", *arguments, env={"RUNNERCTL_ENV_STORE": str(self.root / "store"), **env})


def text_of(channel: str, *specs: str, more: str = "") -> str:
    lines = [
        "name: example",
        "channels:",
        f"  - {channel}",
        "dependencies:",
        *(f"  - {spec}" for spec in specs),
    ]
    return "\n".join([*lines, "variables:", "  MINE: two words", more])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("env")
    channel = build_channel(root / "channel").as_uri()
    (root / "environment.yml").write_text(text_of(channel, *SPECS))
    empty = Site(root, channel, None)
    done = empty.ran("ensure", empty.file, "-o", "json")
    assert done.code == 0, done.err
    yield Site(root, channel, done.json)
    subprocess.run(["chmod", "-R", "u+w", str(root)], check=True, timeout=60)


def test_the_first_builds_and_the_second_finds(site: Site) -> None:
    """Whatever is changed that changes nothing; text and JSON, 80 columns."""
    assert site.first["status"] == "built" and site.first["layer"] is None
    assert list(site.first)[:2] == ["schema", "status"]
    assert os.path.exists(os.path.join(site.first["prefix"], "bin/pytest"))
    assert site.ran("ensure", site.file, "-o", "json").json["status"] == "hit"
    other = site.root / "other.yml"
    other.write_text("# a comment\n" + text_of(site.channel, *reversed(SPECS)))
    again = site.ran("ensure", str(other))
    lines = again.out.splitlines()
    assert again.code == 0 and "was there" in lines[0] and max(map(len, lines[:1] + lines[2:])) <= 80
    assert again.err.startswith(f"runnerctl: uses the store at {site.root}/store\n")
    assert "sample_function" in again.err or "shell function" in again.err


@pytest.mark.exhaustive
def test_a_jobs_later_steps_can_install(site: Site, tmp_path: Path) -> None:
    """What the runner does with the files is done here; then pip and pytest work in the job's layer."""
    files = {name: str(tmp_path / name) for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
    job = {**files, "GITHUB_ACTIONS": "true", "RUNNER_TEMP": str(tmp_path / "temp")}
    (tmp_path / "temp").mkdir()
    done = site.ran("ensure", site.file, "--github", "-o", "json", **job)
    layer = done.json["layer"]["path"]
    assert done.code == 0 and layer.startswith(str(tmp_path / "temp")), done.err
    assert not done.err.count("::group::")  # a hit has nothing to tell
    step = as_runner(files, {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert step["MINE"] == "two words" and step["SAMPLE_TEXT"] == "two\nlines"
    assert step["CONDA_PREFIX"] == done.json["prefix"] and "LD_LIBRARY_PATH" not in step
    in_step(tmp_path, step, "python", "-c", "import sys; print(sys.prefix)", said=layer)
    project(tmp_path / "project")
    install = ("pip", "install", "-q", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    in_step(tmp_path, step, *install, "-e", str(tmp_path / "project"))
    in_step(tmp_path, step, "mine", said="hello")
    in_step(tmp_path, step, "pytest", "-q", str(tmp_path / "project"), said="1 passed")
    in_step(tmp_path, step, *install, "-U", str(wheel(tmp_path)))
    in_step(tmp_path, step, "other", said=layer)
    gone = in_step(tmp_path, step, "python", "-m", "pip", "uninstall", "-y", "pytest")
    assert "outside environment" in gone
    shadow = in_step(tmp_path, step, "python", "-c", "import iniconfig; print(iniconfig.__file__)")
    assert shadow.startswith(layer)
    verified = site.ran("verify", "--digest", done.json["digest"][:12])
    assert verified.code == 0 and verified.out == f"{done.json['digest']}: as installed\n"


def as_runner(files: dict[str, str], environ: dict[str, str]) -> dict[str, str]:
    """The environment of the next step, as actions/runner makes it of the two files."""
    text = Path(files["GITHUB_ENV"]).read_text()
    found = re.findall(r"^(\w+)<<(\S+)\n(.*?)\n\2\n", text, re.MULTILINE | re.DOTALL)
    path = environ["PATH"]
    for line in Path(files["GITHUB_PATH"]).read_text().splitlines():
        path = f"{line}:{path}"
    return {**environ, **{name: value for name, _, value in found}, "PATH": path}


def in_step(folder: Path, step: dict[str, str], *argv: str, said: str = "") -> str:
    done = subprocess.run(
        ["/usr/bin/env", *argv],
        env=step,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and said in done.stdout, done.stdout
    return done.stdout


def project(root: Path) -> None:
    (root / "mine").mkdir(parents=True)
    (root / "mine/__init__.py").write_text("def main():\n    print('hello')\n")
    (root / "setup.py").write_text(SETUP)
    (root / "test_mine.py").write_text("import mine\n\ndef test():\n    assert mine.main\n")


def wheel(folder: Path) -> Path:
    """Another version of a package that the environment has, with a command of its own."""
    path = folder / "iniconfig-99-py3-none-any.whl"
    files = {
        "iniconfig/__init__.py": "import sys\n\ndef main():\n    print(sys.prefix)\n",
        "iniconfig-99.dist-info/METADATA": "Metadata-Version: 2.1\nName: iniconfig\nVersion: 99\n",
        "iniconfig-99.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "iniconfig-99.dist-info/entry_points.txt": "[console_scripts]\nother = iniconfig:main\n",
        "iniconfig-99.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_a_command_takes_the_place(site: Site) -> None:
    """Its exit code and its words are its own; no shell reads them; SIGPIPE is as in a shell."""
    code = "import os,signal,sys; print(sys.prefix, os.environ['MINE'], sys.argv[1:]); sys.exit(7)"
    done = site.process("exec", site.file, "--", "python", "-c", code, "$HOME", "--help", "a b")
    assert done.code == 7, done.err
    assert done.out.split("\n")[0] == f"{site.first['prefix']} two words ['$HOME', '--help', 'a b']"
    killed = site.process("exec", site.file, "--", "sh", "-c", "kill -PIPE $$; exit 0")
    assert killed.code == -13
    layer = str(site.root / "layer")
    inside = site.process(
        "exec", site.file, "--layer", layer, "--", "python", "-c", "import sys; print(sys.prefix)"
    )
    assert inside.out.strip() == layer


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("exec", "{file}"), "there is no command to run"),
        (("exec", "{file}", "--"), "there is no command to run"),
        (("exec", "{file}", "--", "no-such-command"), "no-such-command: there is no such command"),
        (("ensure", "{file}", "--cuda", "new"), "--cuda: is 'new'"),
        (("ensure", "{file}", "--refresh", "x"), "--refresh: is 'x'"),
        (("ensure", "{file}", "--github"), "GITHUB_ENV: is not set"),
        (("verify", "{file}", "--all"), "a lock and the store are looked at one at a time"),
        (("verify", "{file}", "--full"), "--full: is for --digest and --all"),
        (("verify", "--digest", "0123"), "0123: is not an environment"),
        (("gc", "--budget", "much"), "--budget: is 'much'"),
        (("gc", "--keep", "-1"), "--keep: is '-1'"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: tuple[str, ...], says: str, site: Site) -> None:
    """With the code for it."""
    words = [word.format(file=site.file) for word in arguments]
    at = words.index("--") if "--" in words else len(words)
    done = call("env", *words[:at], "--store", str(site.root / "store"), *words[at:], root=site.root)
    lines = [line for line in done.err.splitlines() if "uses the store" not in line]
    assert done.code == (65 if "0123" in words else 64) and says in lines[-1], done.err
    assert not done.out


def test_which_store(tmp_path: Path) -> None:
    """A choice that is none, a host without a service, and no home."""
    bad = call("env", "list", "--store", "mine", root=tmp_path)
    assert bad.code == 64 and "--store: is 'mine'" in bad.err
    bad = call("env", "list", env={"RUNNERCTL_ENV_STORE": "mine"}, root=tmp_path)
    assert bad.code == 64 and "RUNNERCTL_ENV_STORE: is 'mine'" in bad.err
    none = call("env", "list", "--store", "host", root=tmp_path)
    assert none.code == 78 and "no environment store" in none.err
    assert call("env", "list", root=tmp_path).code == 78
    user = call("env", "list", env={"HOME": str(tmp_path)}, root=tmp_path)
    assert (user.code, user.out) == (
        0,
        f"no environments in {tmp_path}/.cache/runnerctl/env\n",
    ) and not user.err


def test_a_shell_can_take_it_over(site: Site) -> None:
    """Lines that sh evaluates; the same as JSON."""
    done = site.ran("export-activation", site.file)
    shell = ["/bin/sh", "-uc", f'{done.out}\nprintf "%s|" "$MINE" "$SAMPLE_TEXT"; command -v pytest']
    said = subprocess.run(shell, capture_output=True, text=True, timeout=10, check=True).stdout
    assert said == f"two words|two\nlines|{site.first['prefix']}/bin/pytest\n"
    found = site.ran("export-activation", site.file, "-o", "json").json["activation"]
    assert found["variables"]["CONDA_PREFIX"] == site.first["prefix"] and found["path"]


def test_what_is_there_is_listed(site: Site) -> None:
    """With its size, and who keeps it."""
    done = site.ran("list", "-o", "json").json
    (row,) = [each for each in done["environments"] if each["digest"] == site.first["digest"]]
    assert row["names"] == ["example"] and row["owner"] is None and row["files"] > 500
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row["used_at"])
    lines = site.ran("list").out.splitlines()
    assert lines[0].split()[:3] == ["DIGEST", "SIZE", "FILES"] and max(map(len, lines)) <= 80


@pytest.mark.exhaustive
def test_a_lock_goes_out_of_date(site: Site, tmp_path: Path) -> None:
    """Written once, left alone while it says the same, refused when the file asks for something else."""
    file = tmp_path / "environment.yml"
    file.write_text(text_of(site.channel, "tiny=1.*"))
    missing = site.ran("verify", str(file))
    assert missing.code == 65 and "has no lock" in missing.err
    made = site.ran("lock", str(file), "-o", "text")
    assert made.code == 0 and "written, 1 package\n" in made.out, made.err
    explicit = (tmp_path / "runnerctl-env.lock.explicit.txt").read_text()
    assert re.fullmatch(rf"@EXPLICIT\n{re.escape(site.channel)}/\S+/tiny-1.1-\S+#[0-9a-f]{{64}}\n", explicit)
    assert "is up to date" in site.ran("lock", str(file)).out
    assert site.ran("verify", str(file)).out.endswith("runnerctl-env.lock: is up to date\n")
    locked = site.ran("ensure", str(file), "--lock", str(tmp_path / "runnerctl-env.lock"), "-o", "json")
    assert locked.json["status"] == "built"
    file.write_text(text_of(site.channel, "tiny=2.*"))
    stale = site.ran("verify", str(file))
    assert stale.code == 65 and "has changed since its lock was written" in stale.err
    assert site.ran("verify", str(file), "--lock", str(file)).code == 65
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "environment.yml",
        "runnerctl-env.lock",
        "runnerctl-env.lock.explicit.txt",
    ]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("dependencies:\n  - tiny\nextra: 1\n", 3, "extra"),
        ("dependencies:\n\t- tiny\n", 2, "tab"),
        ("channels: [defaults]\ndependencies: [tiny]\n", 1, "defaults"),
        ("channels:\n  - {channel}\ndependencies:\n  - tiny=9\n", 4, "tiny"),
    ],
)
def test_a_bad_file_is_one_line(text: str, line: int, says: str, site: Site, tmp_path: Path) -> None:
    """Beside its line in a workflow; the store is as it was."""
    file = tmp_path / "environment.yml"
    file.write_text(text.replace("{channel}", site.channel))
    before = site.ran("list", "-o", "json").json["environments"]
    done = site.ran("ensure", str(file), GITHUB_ACTIONS="true", GITHUB_WORKSPACE=str(tmp_path))
    lines = [each for each in done.err.splitlines() if says in each]
    assert done.code == 65 and not done.out, done.err
    assert any(each.startswith(f"::error file=environment.yml,line={line},") for each in lines), done.err
    assert any(each.startswith(f"runnerctl: {file}:{line}: ") for each in lines), done.err
    assert site.ran("list", "-o", "json").json["environments"] == before


def test_collection_says_what_would_go(site: Site) -> None:
    """And removes nothing; what this process uses stays."""
    done = site.ran("gc", "--budget", "1B", "--check", "-o", "json")
    assert done.code == 0 and done.json["dry_run"], done.err
    text = site.ran("gc", "--budget", "1B", "--check")
    assert "would be freed" in text.out and max(map(len, text.out.splitlines())) <= 80
    assert os.path.isdir(site.first["prefix"])


@pytest.mark.exhaustive
def test_damage_is_found_and_put_aside(site: Site, tmp_path: Path) -> None:
    """The next who asks has it built anew."""
    file, store = tmp_path / "environment.yml", str(tmp_path / "store")
    file.write_text(text_of(site.channel, "activated"))
    answer = call("env", "ensure", str(file), "--store", store, "-o", "json", root=tmp_path)
    prefix = Path(answer.json["prefix"])
    victim = next(path for path in sorted((prefix / "share").rglob("*")) if path.is_file())
    os.chmod(victim, 0o644)
    leases = list((tmp_path / "store/leases").iterdir())
    used = call("env", "verify", "--all", "--store", store, root=tmp_path)
    assert used.code == 65 and "can be written to" in used.out and "in use" in used.out and leases
    for lease in leases:
        lease.unlink()
    aside = call("env", "verify", "--all", "--store", store, root=tmp_path)
    assert aside.code == 65 and "put aside" in aside.out and not prefix.exists()
    again = call("env", "ensure", str(file), "--store", store, "-o", "json", root=tmp_path)
    assert again.json["status"] == "built" and json.loads(again.out)["prefix"] == str(prefix)
    subprocess.run(["chmod", "-R", "u+w", store], check=True, timeout=60)


@pytest.fixture
def host(site: Site, tmp_path: Path) -> Iterator[Path]:
    """The root of a host whose service runs, with one that may take packages from the channel."""
    root = tmp_path / "host"
    (root / "run/runnerctl").mkdir(parents=True)
    url, slots = "https://github.com/acme", [{"name": "a"}]
    spec = host_json(root, url=url, slots=slots, conda_store_channels=[site.channel])
    socket = root / "run/runnerctl/env.sock"
    options = ["--socket", str(socket), "--store", str(root / "store"), "--host-file", str(spec)]
    command = [sys.executable, "-m", "runnerctl", "env", "serve", *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as service:
        try:
            until = time.monotonic() + 20
            while not socket.exists() and time.monotonic() < until:
                time.sleep(0.01)
            yield root
        finally:
            service.terminate()
            service.wait(20)
            subprocess.run(["chmod", "-R", "u+w", str(root)], check=True, timeout=60)


@pytest.mark.exhaustive
def test_a_hosts_service_is_asked_the_same(host: Path, site: Site, tmp_path: Path) -> None:
    """Every command, without a word about where from."""
    file = tmp_path / "environment.yml"
    file.write_text(text_of(site.channel, "tiny=1.*"))

    def ran(*arguments: str) -> Ran:
        return call("env", *arguments, env={"HOME": "/nonexistent"}, root=host)

    first = ran("ensure", str(file), "-o", "json")
    assert (first.code, first.err) == (0, "") and first.json["status"] == "built"
    assert first.json["prefix"].startswith(str(host / "store"))
    assert ran("ensure", str(file), "-o", "json").json["status"] == "hit"
    assert [row["names"] for row in ran("list", "-o", "json").json["environments"]] == [["example"]]
    assert ran("lock", str(file)).code == 0
    assert ran("verify", str(file)).code == 0
    assert ran("verify", "--all").out == f"{first.json['digest']}: as installed\n"
    assert "1 environment, 1 in use" in ran("gc", "--check").out
    file.write_text("dependencies: [tiny]\nextra: 1\n")
    bad = ran("ensure", str(file))
    assert bad.code == 65 and bad.err.startswith(f"runnerctl: {file}:2: ")


def test_nothing_of_the_machinery_is_loaded_for_a_layer() -> None:
    """The quick way makes layers, too: standard library only."""
    code = "import sys, runnerctl.cli.env_shown; print({'msgspec', 'typer', 'yaml'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "set()\n"
