"""The store of environments on a real host: what jobs get of it, and what they cannot do to it.

The tests of this file are one story about one host with slots of two owners, in their order.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fakes.conda_channel import CondaPackage, Served, build_channel, serve
from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

STORE = "/var/lib/runnerctl/env"
SERVICE = "runnerctl-env.service"
MOST_EXPOSED = 2.5  # of 10, in systemd's own measure
TOKEN = "c0nda-t0ken-of-acme"
FILE = """\
name: widgets
channels: [conda-forge]
dependencies:
  - python
  - pip
  - setuptools
  - tiny =1.0
variables:
  WIDGETS: "yes"
"""
# Nothing that a job could do to what it reads, each in its own words; what is printed would be a hole.
ATTACKS = """\
import os, sys
prefix = sys.argv[1]
store = os.path.dirname(os.path.dirname(prefix))
file = os.path.join(prefix, "conda-meta", "history")
own = os.environ["RUNNER_TEMP"]
def attempt(name, do):
    try:
        do()
    except OSError:
        return
    print("HOLE", name)
for top, folders, files in os.walk(store):
    if os.access(top, os.W_OK):
        print("HOLE writable", top)
    for each in files:
        path = os.path.join(top, each)
        if not os.path.islink(path) and os.access(path, os.W_OK):
            print("HOLE writable", path)
    if top.count("/") > prefix.count("/") + 3:
        folders.clear()
attempt("open", lambda: open(file, "r+"))
attempt("truncate", lambda: os.truncate(file, 0))
attempt("chmod", lambda: os.chmod(file, 0o777))
attempt("chmod of a directory", lambda: os.chmod(prefix, 0o777))
attempt("rename", lambda: os.rename(prefix, prefix + "-mine"))
attempt("unlink", lambda: os.unlink(prefix + ".json"))
attempt("new file", lambda: open(os.path.join(prefix, "bin", "evil"), "w"))
attempt("new environment", lambda: os.mkdir(os.path.join(store, "envs", "0" * 20)))
attempt("hard link", lambda: os.link(file, os.path.join(own, "linked")))
attempt("utime", lambda: os.utime(file))
attempt("xattr", lambda: os.setxattr(file, "user.x", b"1"))
os.symlink(file, os.path.join(own, "soft"))
attempt("through a link", lambda: open(os.path.join(own, "soft"), "a"))
attempt("through /proc", lambda: open("/proc/self/root" + file, "a"))
attempt("packages", lambda: os.listdir(os.path.join(store, "cache")))
attempt("locks", lambda: open(os.path.join(store, "locks", "x"), "w"))
attempt("credentials", lambda: open("/etc/runnerctl/env/channels.json").read())
attempt("systemd's credentials", lambda: os.listdir("/run/credentials/runnerctl-env.service"))
attempt("memory", lambda: open("/proc/%s/mem" % sys.argv[2], "rb"))
attempt("environment", lambda: open("/proc/%s/environ" % sys.argv[2], "rb").read())
print("owners:", ",".join(sorted(os.listdir(os.path.join(store, "owners")))))
"""
PROJECT = """\
set -e
mkdir -p project/mine
printf 'def main():\\n    print("mine runs")\\n' > project/mine/__init__.py
cat > project/pyproject.toml <<'END'
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "mine"
version = "1.0"
scripts = {mine = "mine:main"}
[tool.setuptools]
packages = ["mine"]
END
pip install --quiet --no-build-isolation --no-deps --no-index -e project
"""


@dataclass
class Place:
    """The host, and the channels it builds from."""

    site: Site
    public: Served
    private: Served

    def job(self, *steps: str, slot: str = "one") -> int:
        """Queue a job of these steps; it finds ``environment.yml`` as `FILE`."""
        write = f"cat > environment.yml <<'END'\n{FILE}END\n"
        owner = {"one": "acme/widgets", "two": "globex/gadgets"}[slot]
        runs = [{"name": f"step {number}", "run": run} for number, run in enumerate((write, *steps))]
        return self.site.github.add_job(
            labels=["self-hosted", "linux", "x64", slot], steps=runs, repository=owner
        )

    def run(self, *steps: str, slot: str = "one", seconds: float = 90) -> tuple[str, str]:
        """Run such a job: its result and its log."""
        return self.site.result(self.job(*steps, slot=slot), seconds=seconds)

    def environments(self) -> list[dict[str, Any]]:
        """What root sees in the store."""
        text = self.site.host.exec("runnerctl", "env", "list", "--store", "host", "-o", "json").stdout
        found: list[dict[str, Any]] = json.loads(text)["environments"]
        return found

    def verified(self) -> None:
        """Every file is as it was installed."""
        self.site.host.exec("runnerctl", "env", "verify", "--store", "host", "--all", "--full", seconds=120)


@pytest.fixture(scope="module")
def place(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """A host with a store, slots of two owners, a public channel and one of acme's alone."""
    folder, address = tmp_path_factory.mktemp("env-store"), lab.network.gateway
    secret = CondaPackage("acme-tool", "1.0", files={"share/acme": "acme's own\n"}, noarch="generic")
    with ExitStack() as stack:
        public = stack.enter_context(serve(build_channel(folder / "public"), address=address))
        own = build_channel(folder / "private", (), extra=[secret])
        private = stack.enter_context(serve(own, address=address, token=TOKEN))
        credentials = folder / "channels.json"
        credentials.write_text(json.dumps({address: {"BearerToken": TOKEN}}))
        variables = {
            "conda_manage": False,
            "conda_store": True,
            "conda_store_aliases": {"conda-forge": public.url},
            "conda_store_private_channels": [{"url": private.url, "owner": "Acme"}],
            "conda_store_credentials_file": str(credentials),
            "github_runner_slots": [
                {"name": "one", "labels": ["one"]},
                {"name": "two", "labels": ["two"], "url": f"{module_world.github.url}/globex"},
            ],
        }
        controller = Controller(folder / "controller", lab.keys)
        site = Site([module_hosts()], module_world, controller, variables)
        site.provision("--diff")
        yield Place(site, public, private)
        assert module_world.control.violations() == []


def eventually(what: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Wait until it comes true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


def exposed(place: Place) -> float:
    """What systemd thinks of the service, from 0 (nothing) to 10."""
    text = place.site.shell(f"systemd-analyze security --no-pager {SERVICE} | tail -1")
    return float(text.partition(": ")[2].split()[0])


def test_a_second_run_changes_nothing_and_no_output_has_a_secret(place: Place) -> None:
    """The store is its user's; the credentials are root's and nobody's to read, in no file and no output."""
    host = place.site.host
    again = place.site.provision("--diff")
    assert again.recap[host.name].changed == 0, again.output
    predicted = place.site.provision("--check", "--diff")
    assert predicted.recap[host.name].changed == 0, predicted.output
    modes = place.site.shell(f"cd {STORE} && stat -c '%n %U %a' . owners owners/* /etc/runnerctl/env/*")
    assert modes.split("\n")[:-1] == [
        ". runnerctl-env 755",
        "owners runnerctl-env 700",
        "owners/acme runnerctl-env 755",
        "owners/globex runnerctl-env 755",
        "/etc/runnerctl/env/channels.json root 600",
    ]
    assert TOKEN not in again.output
    leaks = f"grep -rl {TOKEN} /etc /var/lib/runnerctl /var/log /run --exclude-dir=credentials || :"
    assert place.site.shell(leaks) == "/etc/runnerctl/env/channels.json\n"
    exposure = exposed(place)
    assert exposure <= MOST_EXPOSED, exposure
    assert host.exec("getent", "passwd", "runnerctl-env").stdout.endswith(":/nonexistent:/usr/sbin/nologin\n")


def test_health_says_when_the_store_is_not_there(place: Place) -> None:
    """It listens, or it is a warning: jobs would make their environments themselves."""

    def verdict() -> str:
        done = place.site.host.exec("runnerctl", "health", "--no-network", "-o", "json", check=False)
        findings = {each["id"]: each for each in json.loads(done.stdout)["findings"]}
        return str(findings["conda.store"]["status"])

    assert verdict() == "OK"
    place.site.host.exec("systemctl", "stop", "runnerctl-env.socket")
    try:
        assert verdict() == "WARNING"
    finally:
        place.site.host.exec("systemctl", "start", "runnerctl-env.socket")


def test_a_job_has_it_built_and_later_steps_use_it(place: Place) -> None:
    """No login shell, no activation: `run:` steps find Python, variables and a place to install to."""
    ensure = "runnerctl env ensure environment.yml --github"
    use = (
        "python -c 'import sys; print(sys.version_info[0], sys.prefix)'; echo $WIDGETS $CONDA_PREFIX;"
        " command -v pip"
    )
    result, log = place.run(ensure, use)
    assert result == "success", log
    assert "yes /var/lib/runnerctl/env/envs/" in log
    (found,) = place.environments()
    assert found["owner"] is None
    result, log = place.run("runnerctl env ensure environment.yml -o json", slot="two")
    assert result == "success", log
    assert '"status":"hit"' in log.replace(" ", ""), "what is everybody's is shared"


def test_a_job_can_only_read(place: Place) -> None:
    """Whatever it tries; and of owners it sees its own alone."""
    pid = place.site.shell(f"systemctl show -P MainPID {SERVICE}").strip()
    place.site.host.put("/srv/attacks.py", ATTACKS)
    script = f"python3 /srv/attacks.py $CONDA_PREFIX {pid}"
    for slot, owner in (("one", "acme"), ("two", "globex")):
        result, log = place.run("runnerctl env ensure environment.yml --github", script, slot=slot)
        assert result == "success", log
        assert "HOLE" not in log, log
        assert f"owners: {owner}\n" in log
    place.verified()


def test_a_private_channel_is_its_owners_alone(place: Place) -> None:
    """What was built from it, too; and one who asks for another owner is refused."""
    private = (
        f"printf 'channels: [{place.private.url}]\ndependencies: [acme-tool]\n' > private.yml;"
        " runnerctl env ensure private.yml --layer none --github"
    )
    result, log = place.run(private, "cat $CONDA_PREFIX/share/acme")
    assert result == "success", log
    assert "acme's own" in log
    assert TOKEN not in log
    (mine,) = [each for each in place.environments() if each["owner"] == "acme"]
    result, log = place.run(
        f"{private} || echo refused $?", f"ls {mine['prefix']} || :; runnerctl env list", slot="two"
    )
    assert result == "success", log
    assert "refused 77" in log
    assert "No such file" in log
    assert mine["digest"][:12] not in log.partition("No such file")[2]
    ask = "from runnerctl.envs.client import ask; print(ask('list', {'owner': 'acme'}))"
    result, log = place.run(f'$(realpath /opt/runnerctl/bin)/python -c "{ask}" || :', slot="two")
    assert "these environments are another owner's" in log, log
    assert TOKEN not in place.site.host.journal(SERVICE)


def test_a_project_is_installed_into_the_jobs_own_layer(place: Place) -> None:
    """As on a hosted runner: editable, with its command; the store has nothing of it."""
    result, log = place.run(
        "runnerctl env ensure environment.yml --github", PROJECT, "mine; python -c 'import mine'"
    )
    assert result == "success", log
    assert "mine runs" in log
    place.verified()


def building(place: Place) -> bool:
    """Whether an environment has begun, and is not published."""
    names = place.site.shell(f"ls {STORE}/envs").split()
    return any(f"{name}.json" not in names for name in names if not name.endswith(".json"))


def test_a_service_that_is_killed_while_it_builds_is_replaced(place: Place) -> None:
    """The job waits on, and gets it; nothing half is left."""
    other = "sed -i 's/tiny =1.0/tiny =1.1/' environment.yml; runnerctl env ensure environment.yml --github"
    job = place.job(other, "python -c 'import pip'")
    eventually(lambda: building(place))
    place.site.shell(f"systemctl kill --kill-whom=main -s KILL {SERVICE}")
    result, log = place.site.result(job, seconds=90)
    assert result == "success", log
    assert not building(place)
    place.verified()


def test_a_power_cut_leaves_no_half_environment(place: Place) -> None:
    """After the boot the next one who asks has it built."""
    host = place.site.host
    text = FILE.replace("tiny =1.0", "tiny =2.0")
    host.put("/root/cut/environment.yml", text)
    ensure = ("--working-directory=/root/cut", "runnerctl", "env", "ensure", "--layer", "none")
    host.exec("systemd-run", "--quiet", *ensure)
    eventually(lambda: building(place))
    host.pull_the_plug()
    host.start()
    known = len(place.environments())
    assert building(place), "it is there in part, and does not count"
    host.exec("sh", "-c", "cd /root/cut && runnerctl env ensure --layer none", seconds=90)
    assert len(place.environments()) == known + 1
    assert not building(place)
    place.verified()


def test_what_a_running_job_uses_stays_and_then_the_store_goes(place: Place) -> None:
    """However small the budget, and when the store is given up."""
    site = place.site
    wait = "touch $HOME/has; while [ ! -e $HOME/go ]; do sleep 0.1; done; python -c 'print(\"survived\")'"
    job = place.job("runnerctl env ensure environment.yml --github", wait)
    home = "/var/lib/gha-runner/one/home"
    eventually(lambda: site.host.exists(f"{home}/has"))
    site.host.exec("systemctl", "start", "runnerctl-env-gc.service", seconds=90)
    assert len(place.environments()) > 1, "the timer's run is content with the budget"
    site.host.exec("runnerctl", "env", "gc", "--store", "host", "--budget", "1B", seconds=90)
    assert len(place.environments()) == 1
    site.variables["conda_store"] = False
    outcome = site.provision()
    assert "stays while jobs use environments" in outcome.output
    site.shell(f"touch {home}/go")
    result, log = site.result(job)
    assert result == "success", log
    assert "survived" in log
    site.provision()
    assert not site.host.exists(STORE)
    assert site.host.exec("getent", "passwd", "runnerctl-env", check=False).rc != 0
    assert site.shell("systemctl list-unit-files 'runnerctl-env*' --no-legend || :") == ""
