"""REST operations on runner groups of an organisation or an enterprise."""

from __future__ import annotations

from typing import Any

from tests.fakes.github_api.jobs import Jobs
from tests.fakes.github_api.openapi import SCOPES, Description
from tests.fakes.github_api.runners import Handler, Routes, Runners, cut, paged, scope_base
from tests.fakes.github_api.state import Group
from tests.fakes.github_api.store import DEFAULT_GROUP, Store, scope_of
from tests.fakes.github_api.wire import Answer, Json, RefusalError, Request

__all__ = ["Groups"]

_FIELDS = (
    "name",
    "visibility",
    "allows_public_repositories",
    "restricted_to_workflows",
    "selected_workflows",
)
_BASE = "/actions/runner-groups"
_ONE = _BASE + "/{runner_group_id}"


class Groups:
    """The operations of the contract's section 4."""

    def __init__(self, store: Store, jobs: Jobs, runners: Runners, description: Description) -> None:
        self.store = store
        self.jobs = jobs
        self.runners = runners
        self.description = description

    def routes(self) -> Routes:
        """Handlers by method and path template."""
        common: dict[tuple[str, str], Handler] = {
            ("GET", _BASE): self.index,
            ("POST", _BASE): self.create,
            ("GET", _ONE): self.get,
            ("PATCH", _ONE): self.update,
            ("DELETE", _ONE): self.delete,
            ("GET", _ONE + "/runners"): self.list_runners,
            ("PUT", _ONE + "/runners"): self.set_runners,
            ("PUT", _ONE + "/runners/{runner_id}"): self.add_runner,
            ("DELETE", _ONE + "/runners/{runner_id}"): self.remove_runner,
        }
        bases = (SCOPES["organization"], SCOPES["enterprise"])
        table = {
            (method, base + tail): handler for (method, tail), handler in common.items() for base in bases
        }
        for base, members, one in (
            (bases[0], "/repositories", "repository_id"),
            (bases[1], "/organizations", "org_id"),
        ):
            table["GET", base + _ONE + members] = self.list_selected
            table["PUT", base + _ONE + members] = self.set_selected
            table["PUT", f"{base}{_ONE}{members}/{{{one}}}"] = self.select
            table["DELETE", f"{base}{_ONE}{members}/{{{one}}}"] = self.unselect
        return table

    # -- helpers

    def _one(self, request: Request) -> Group:
        return self.store.group(scope_of(scope_base(request)), int(request.params["runner_group_id"]))

    def show(self, request: Request, group: Group) -> Json:
        """A group as the API shows it to this client."""
        url = f"{request.api}{scope_base(request)}{_BASE}/{group.id}"
        shown: Json = {name: getattr(group, name) for name in _FIELDS}
        shown |= {"id": group.id, "default": group.default, "runners_url": f"{url}/runners"}
        shown["workflow_restrictions_read_only"] = False
        organisation = "org" in request.params
        if organisation:
            shown |= {"inherited": False, "inherited_allows_public_repositories": False}
        if group.visibility == "selected":
            kind = "repositories" if organisation else "organizations"
            shown[f"selected_{kind}_url"] = f"{url}/{kind}"
        if group.network_configuration_id is not None:
            shown["network_configuration_id"] = group.network_configuration_id
        return shown

    def _name_is_free(self, scope: str, name: str, *, but: int = 0) -> None:
        for group in self.store.groups(scope).values():
            if group.name.lower() == name.lower() and group.id != but:
                raise RefusalError(409, "Already exists - a runner group with this name")

    # -- groups

    def index(self, request: Request) -> Answer:
        """All groups, or those that a repository (organisation) may use."""
        groups = list(self.store.groups(scope_of(scope_base(request))).values())
        visible = request.query.get("visible_to_repository")
        if visible is not None:
            wanted = self.store.repository_id(f"{request.params['org']}/{visible}")
            groups = [group for group in groups if group.visibility != "selected" or wanted in group.selected]
        shown = [self.show(request, group) for group in cut(request, groups)]
        return paged(request, total=len(groups), key="runner_groups", items=shown)

    def create(self, request: Request) -> Answer:
        """A new group, with its runners and its repositories or organisations."""
        if not self.store.settings.organisation_groups:
            raise RefusalError(403, "Runner groups are not available on this plan")
        scope, given = scope_of(scope_base(request)), request.json
        self._name_is_free(scope, given["name"])
        known = {name: given[name] for name in (*_FIELDS, "network_configuration_id") if name in given}
        selected = given.get("selected_repository_ids", given.get("selected_organization_ids", []))
        group = Group(self.store.next_id(), scope=scope, **known, selected=list(selected))
        self.store.groups(scope)[group.id] = group
        for runner_id in given.get("runners", []):
            self.store.runner(scope, runner_id).group_id = group.id
        return Answer(201, self.show(request, group))

    def get(self, request: Request) -> Answer:
        """One group."""
        return Answer(200, self.show(request, self._one(request)))

    def update(self, request: Request) -> Answer:
        """Change a group's fields."""
        group, given = self._one(request), request.json
        self._name_is_free(group.scope, given.get("name", group.name), but=group.id)
        for name in (*_FIELDS, "network_configuration_id"):
            if name in given:
                setattr(group, name, given[name])
        self.jobs.dispatch()
        return Answer(200, self.show(request, group))

    def delete(self, request: Request) -> Answer:
        """Remove a group; its runners go to the default one, which itself cannot be removed."""
        group = self._one(request)
        if group.default:
            raise RefusalError(422, "The default runner group cannot be deleted")
        for runner in self._members(group):
            runner.group_id = DEFAULT_GROUP
        del self.store.groups(group.scope)[group.id]
        return Answer(204)

    # -- runners of a group

    def _members(self, group: Group) -> list[Any]:
        return [
            item for item in self.store.by_scope.get(group.scope, {}).values() if item.group_id == group.id
        ]

    def list_runners(self, request: Request) -> Answer:
        """The runners of a group."""
        members = self._members(self._one(request))
        shown = [self.runners.show(runner) for runner in cut(request, members)]
        return paged(request, total=len(members), key="runners", items=shown)

    def set_runners(self, request: Request) -> Answer:
        """Replace the runners of a group."""
        group = self._one(request)
        chosen = [self.store.runner(group.scope, runner_id) for runner_id in request.json["runners"]]
        for runner in self._members(group):
            runner.group_id = DEFAULT_GROUP
        for runner in chosen:
            runner.group_id = group.id
        self.jobs.dispatch()
        return Answer(204)

    def add_runner(self, request: Request) -> Answer:
        """Move a runner into a group."""
        group = self._one(request)
        self.store.runner(group.scope, int(request.params["runner_id"])).group_id = group.id
        self.jobs.dispatch()
        return Answer(204)

    def remove_runner(self, request: Request) -> Answer:
        """Send a runner back to the default group."""
        group = self._one(request)
        runner = self.store.runner(group.scope, int(request.params["runner_id"]))
        if runner.group_id != group.id:
            raise RefusalError(404, "Not Found")
        runner.group_id = DEFAULT_GROUP
        self.jobs.dispatch()
        return Answer(204)

    # -- repositories or organisations of a group

    def list_selected(self, request: Request) -> Answer:
        """The repositories (organisation) or organisations (enterprise) that may use a group."""
        group = self._one(request)
        organisation = "org" in request.params
        names = self.store.state.repositories if organisation else self.store.state.owners
        by_id = {number: name for name, number in names.items()}
        key = "repositories" if organisation else "organizations"
        shown = [
            self._member(request, number, by_id.get(number, f"unknown/{number}"))
            for number in cut(request, group.selected)
        ]
        return paged(request, total=len(group.selected), key=key, items=shown)

    def _member(self, request: Request, number: int, name: str) -> Json:
        if "org" not in request.params:
            return self.description.sample("organization-simple", id=number, login=name)
        short = name.rpartition("/")[2]
        url = f"{request.api}/repos/{name}"
        return self.description.sample("minimal-repository", id=number, name=short, full_name=name, url=url)

    def set_selected(self, request: Request) -> Answer:
        """Replace the repositories or organisations of a group."""
        self._one(request).selected = list(next(iter(request.json.values())))
        self.jobs.dispatch()
        return Answer(204)

    def _number(self, request: Request) -> int:
        return int(request.params.get("repository_id") or request.params["org_id"])

    def select(self, request: Request) -> Answer:
        """Let one more repository or organisation use a group."""
        group, number = self._one(request), self._number(request)
        if group.visibility != "selected":
            raise RefusalError(409, "The group's visibility is not 'selected'")
        if number not in group.selected:
            group.selected.append(number)
        self.jobs.dispatch()
        return Answer(204)

    def unselect(self, request: Request) -> Answer:
        """Take the group away from one repository or organisation."""
        group, number = self._one(request), self._number(request)
        group.selected = [item for item in group.selected if item != number]
        return Answer(204)
