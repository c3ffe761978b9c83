"""One host with runners in repositories, organisations and an enterprise, and every kind of credential.

The tests of this file are one story about one host, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

ACME, GLOBEX, MEGACORP = "/orgs/acme", "/orgs/globex", "/enterprises/megacorp"
WIDGETS, GADGETS = "/repos/acme/widgets", "/repos/acme/gadgets"
GROUP = "GPU pool"
OTHERS = 250  # more than two pages
FIXED = {"self-hosted", "linux", "x64"}


def slots(base: str) -> list[dict[str, Any]]:
    """A slot in each kind of scope, two organisations among them, and one with a runner group."""
    return [
        {"name": "repo"},
        {"name": "org", "url": f"{base}/acme", "group": GROUP},
        {"name": "second", "url": f"{base}/globex"},
        {"name": "enter", "url": f"{base}/enterprises/megacorp"},
    ]


PLACES = {"repo": WIDGETS, "org": ACME, "second": GLOBEX, "enter": MEGACORP}


@pytest.fixture(scope="module")
def story(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A host that the first tests converge; its organisation has many runners already."""
    control, base = module_world.control, module_world.github.url
    control.add_group(ACME, GROUP)
    control.add_runners(ACME, OTHERS, status="online")
    controller = Controller(Path(tmp_path_factory.mktemp("scopes")), lab.keys)
    yield Site([module_hosts()], module_world, controller, {"github_runner_slots": slots(base)})
    assert control.violations() == []


@pytest.fixture
def site(story: Site) -> Site:
    """That host, with the requests so far forgotten."""
    story.github.clear_requests()
    return story


def record(site: Site, scope: str, slot: str) -> dict[str, Any]:
    """The record of a slot in a scope; empty when there is none."""
    return site.github.runner(scope, f"{site.host.name}-{slot}") or {}


def ours(site: Site) -> dict[str, str]:
    """Every record of this host on GitHub: name without the host -> scope."""
    prefix = f"{site.host.name}-"
    found = [runner for runner in site.github.runners() if runner["name"].startswith(prefix)]
    return {runner["name"].removeprefix(prefix): runner["scope"] for runner in found}


def settled(site: Site, **settings: Any) -> None:
    """The next run changes nothing and writes nothing; an App gets its own short-lived tokens by a POST."""
    site.github.clear_requests()
    outcome = site.slots(**settings)
    assert outcome.recap[site.host.name].changed == 0, outcome.changed()
    calls = [call for call in site.github.requests(kind="api") if call["method"] != "GET"]
    assert [call["path"] for call in calls if not call["path"].endswith("/access_tokens")] == []


def test_an_unknown_group_is_one_line_before_anything_changes(site: Site) -> None:
    """On the host and on GitHub; the groups there are, and the scope, are named."""
    wanted = slots(site.world.github.url)
    site.variables["github_runner_slots"] = [wanted[0], {**wanted[1], "group": "no such"}]
    outcome = site.play("provision.yml", "--tags", "github_runner")
    site.variables["github_runner_slots"] = wanted
    assert outcome.rc != 0
    message = outcome.failures()[-1].msg
    assert message.startswith(
        f"{site.host.name}: acme: there is no runner group 'no such'; it has Default, {GROUP}; "
    )
    assert "\n" not in message
    assert outcome.changed() == []
    assert ours(site) == {}
    assert site.github.counts(path=f"{ACME}/actions/runners/registration-token") == (0, 0)


def test_a_slot_in_each_kind_of_scope_comes_online_where_it_belongs(site: Site) -> None:
    """Repository, two organisations, enterprise; the group is the one of its name."""
    site.slots()
    assert ours(site) == PLACES
    assert {record(site, scope, slot)["status"] for slot, scope in PLACES.items()} == {"online"}
    group = next(runner for runner in site.github.runners(ACME) if runner["name"] == f"{site.host.name}-org")
    assert group["runner_group_id"] != site.github.runners(ACME)[0]["runner_group_id"]
    for slot, scope in PLACES.items():
        assert site.host.read(f"/var/lib/gha-runner/{slot}/.runner").count(scope.rpartition("/")[2]) >= 1


def test_many_other_runners_make_no_difference_to_the_second_run(site: Site) -> None:
    """A request a slot, one a scope, and one a group in each step that asks; none writes."""
    settled(site)
    requests, _ = site.github.counts()
    assert requests <= 3 * len(PLACES) + 1
    assert len(site.github.runners(ACME)) == OTHERS + 1


def test_a_changed_group_is_repaired_by_one_request(site: Site) -> None:
    """A PUT into the group; nothing is registered again. Check mode tells and does not write."""
    before = record(site, ACME, "org")
    site.github.change_runner(before["id"], group_id=1)
    predicted = site.slots("--check", "--diff")
    assert any("group 1 -> " in action for action in site.actions(predicted))
    assert site.github.counts()[1] == 0
    outcome = site.slots()
    assert site.github.counts()[1] == 1
    assert [call["path"] for call in site.github.requests(kind="api", method="PUT")] == [
        f"{ACME}/actions/runner-groups/{before['runner_group_id']}/runners/{before['id']}"
    ]
    after = record(site, ACME, "org")
    assert (after["id"], after["runner_group_id"]) == (before["id"], before["runner_group_id"])
    assert outcome.recap[site.host.name].changed == 1


def test_a_moved_and_a_renamed_slot_leave_no_ghost(site: Site) -> None:
    """On GitHub and on the host; the slots beside them are not touched."""
    base = site.world.github.url
    kept = {slot: record(site, PLACES[slot], slot)["id"] for slot in ("org", "enter")}
    wanted = slots(base)
    wanted[0] = {"name": "repo", "url": f"{base}/acme/gadgets"}
    wanted[2] = {**wanted[2], "name": "renamed"}
    site.variables["github_runner_slots"] = wanted
    site.slots()
    assert ours(site) == {"repo": GADGETS, "org": ACME, "renamed": GLOBEX, "enter": MEGACORP}
    assert record(site, GADGETS, "repo")["status"] == "online"
    assert record(site, GLOBEX, "renamed")["status"] == "online"
    assert kept == {slot: record(site, PLACES[slot], slot)["id"] for slot in ("org", "enter")}
    assert not site.host.exists("/var/lib/gha-runner/second")
    assert "gha-second" not in site.host.read("/etc/passwd")
    assert "gadgets" in site.host.read("/var/lib/gha-runner/repo/.runner")
    settled(site)


def test_no_default_labels_is_what_github_then_has(site: Site) -> None:
    """GitHub sets its labels at registration only: the slots are registered again, under their names."""
    site.variables |= {"github_runner_no_default_labels": True, "github_runner_labels": ["Mine", "linux"]}
    names = ours(site)
    site.slots()
    assert ours(site) == names
    for slot, scope in names.items():
        labels = {label["name"].lower() for label in record(site, scope, slot)["labels"]}
        assert labels == {"mine", "linux"}, slot
    settled(site)
    for variable in ("github_runner_no_default_labels", "github_runner_labels"):
        del site.variables[variable]


def test_a_github_app_serves_every_scope_it_is_installed_in(site: Site, tmp_path: Path) -> None:
    """No person's token is needed; neither the App's key nor a token of its own reaches the host or a log."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = tmp_path / "app.pem"
    plain = serialization.NoEncryption()
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    file.chmod(0o600)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    organisation = {"organization_self_hosted_runners": "write"}
    installations = [
        {"id": 1, "account": "acme", "permissions": {**organisation, "administration": "write"}},
        {"id": 2, "account": "globex", "permissions": organisation},
        {"id": 3, "account": "megacorp", "type": "Enterprise"}
        | {"permissions": {"enterprise_self_hosted_runners": "write"}},
    ]
    site.github.add_app(4711, public_key=public.decode(), installations=installations)
    app = {"GH_TOKEN": "", "RUNNERCTL_APP_ID": "4711", "RUNNERCTL_APP_KEY_FILE": str(file)}

    outcome = site.slots("-vvv", environment=app)  # back to the default labels: all are registered again
    for slot, scope in ours(site).items():
        labels = {label["name"].lower() for label in record(site, scope, slot)["labels"]}
        assert (labels, record(site, scope, slot)["status"]) == (FIXED, "online")
    secrets = {*site.github.secrets("app-token", "installation", "registration"), site.world.token}
    assert len(secrets) > len(installations)
    secrets.add(file.read_text().splitlines()[1])
    assert not [secret for secret in secrets if secret in outcome.output]
    site.host.put("/root/.secrets", "\n".join(secrets))
    places = "/etc /opt/actions-runner /root /tmp /run /var"
    found = site.shell(f"grep -rlF -f /root/.secrets {places} 2>/dev/null; rm /root/.secrets")
    assert found.split() == ["/root/.secrets"]
    settled(site, environment=app)


@pytest.mark.parametrize(
    ("slot", "scope", "permission"),
    [
        ({"name": "repo"}, WIDGETS, "administration"),
        ({"name": "org", "group": GROUP}, ACME, "organization_self_hosted_runners"),
    ],
)
def test_a_fine_grained_token_needs_the_documented_permission_and_no_more(
    site: Site, slot: dict[str, Any], scope: str, permission: str
) -> None:
    """Register, repair labels, unregister: with one permission for all of it."""
    base, owner = site.world.github.url, scope.split("/", 2)[2]
    site.variables["github_runner_slots"] = []
    if ours(site):  # what the tests before left
        site.slots()
    assert ours(site) == {}
    token = f"github_pat_{permission}{'0' * 30}"
    site.github.add_token(token, permissions={permission: "write"}, targets=[owner])
    environment = {"GH_TOKEN": token}
    site.variables["github_runner_slots"] = [{**slot, "url": f"{base}/{owner}"}]
    site.slots(environment=environment)
    site.github.change_runner(record(site, scope, slot["name"])["id"], labels=["by-hand"])
    site.slots(environment=environment)
    labels = {label["name"].lower() for label in record(site, scope, slot["name"])["labels"]}
    assert labels == FIXED
    site.variables["github_runner_slots"] = []
    site.slots(environment=environment)
    assert ours(site) == {}
