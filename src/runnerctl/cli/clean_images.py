"""The container images of the host's Docker Engine: how big, how old, used or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runnerctl.core.clean import Doomed, Thing

__all__ = ["Images"]

SECONDS = 60


class Images:
    """The images of the Engine that ``DOCKER_HOST`` names, or of the local one; none where none answers."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env

    def things(self) -> list[Thing]:
        """Every image; one that a container has is in use, running or not."""
        try:
            with contextlib.closing(self._client()) as client:
                return list(_things(client.api.df().get("Images") or ()))
        except Exception:  # no SDK, no Engine, or one that does not answer: there are no images to remove
            return []

    def remove(self, doomed: Sequence[Doomed], failed: list[str]) -> list[Doomed]:
        """Remove images that still are unused; what has gone. Why one has not is added to ``failed``."""
        if not doomed:
            return []
        gone = []
        with contextlib.closing(self._client()) as client:
            for each in doomed:
                try:
                    _remove(client, each.thing.name)
                    gone.append(each)
                except Exception as error:  # the SDK's own, or its transport's
                    failed.append(f"image {each.thing.name}: {error}")
        return gone

    def _client(self) -> Any:
        import docker

        return docker.from_env(environment=dict(self.env), timeout=SECONDS)


def _things(images: Iterable[Mapping[str, Any]]) -> Iterable[Thing]:
    for image in images:
        shared = max(0, int(image.get("SharedSize") or 0))
        size = max(0, int(image.get("Size") or 0) - shared)
        created = float(image.get("Created") or 0)
        used = int(image.get("Containers") or 0) != 0
        yield Thing("image", "", str(image.get("Id")), size, created, in_use=used)


def _remove(client: Any, identity: str) -> None:
    """Take every name from it and then itself; the Engine refuses where a container has it."""
    names = client.images.get(identity).tags or [identity]
    for name in names:
        client.images.remove(name, force=False)
