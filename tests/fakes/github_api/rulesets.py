"""REST operations on a repository's rulesets; branch protection is what a test gave as a document."""

from __future__ import annotations

from typing import Any

from tests.fakes.github_api.runners import Routes, cut, paged
from tests.fakes.github_api.store import Store
from tests.fakes.github_api.wire import Answer, Json, RefusalError, Request

__all__ = ["Rulesets"]

_LIST = "/repos/{owner}/{repo}/rulesets"
_ONE = _LIST + "/{ruleset_id}"
_CHECKS = "/repos/{owner}/{repo}/branches/{branch}/protection/required_status_checks"


class Rulesets:
    """List without rules, one with them, create, replace: as GitHub does."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def routes(self) -> Routes:
        """Handlers by method and path template."""
        return {
            ("GET", _LIST): self.index,
            ("POST", _LIST): self.create,
            ("GET", _ONE): self.get,
            ("PUT", _ONE): self.replace,
            ("GET", _CHECKS): self.unprotected,
        }

    def _of(self, request: Request) -> list[Json]:
        name = f"{request.params['owner']}/{request.params['repo']}".lower()
        return self.store.state.rulesets.setdefault(name, [])

    def index(self, request: Request) -> Answer:
        """The rulesets without their rules and conditions."""
        found = self._of(request)
        left_out = ("rules", "conditions", "bypass_actors")
        shown = [{name: value for name, value in each.items() if name not in left_out} for each in found]
        return paged(request, total=len(found), key=None, items=cut(request, shown))

    def create(self, request: Request) -> Answer:
        """A new ruleset; a name may be there once only."""
        found = self._of(request)
        if any(each["name"] == request.json["name"] for each in found):
            raise RefusalError(422, "Validation Failed: Name must be unique")
        source = f"{request.params['owner']}/{request.params['repo']}"
        made: Json = {"target": "branch", "bypass_actors": [], "rules": [], **request.json}
        made |= {"id": self.store.next_id(), "source_type": "Repository", "source": source}
        found.append(made)
        return Answer(201, made)

    def get(self, request: Request) -> Answer:
        """One ruleset with its rules."""
        return Answer(200, self._one(request))

    def replace(self, request: Request) -> Answer:
        """Replace what the request names."""
        one = self._one(request)
        changes: dict[str, Any] = dict(request.json)
        one.update(changes)
        return Answer(200, one)

    def _one(self, request: Request) -> Json:
        number = int(request.params["ruleset_id"])
        found = next((each for each in self._of(request) if each["id"] == number), None)
        if found is None:
            raise RefusalError(404, "Not Found")
        return found

    def unprotected(self, _request: Request) -> Answer:
        """No branch is protected in the old way, unless a test gave a document that says so."""
        raise RefusalError(404, "Branch not protected")
