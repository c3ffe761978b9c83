"""Everything hosts need, made once a session: engine, network, images, keys; and the hosts made from it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.hosts.engine import Engine, Network, engine, network
from tests.hosts.host import Device, Host, create, prune
from tests.hosts.image import Suite, Variant, image
from tests.hosts.keys import Keys, make_keys

__all__ = ["Lab"]


@dataclass
class Lab:
    """Makes hosts, and takes them all away at `close`."""

    engine: Engine
    network: Network
    keys: Keys
    hosts: list[Host] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    @classmethod
    def open(cls, directory: Path) -> Lab:
        """``directory`` keeps the keys. Hosts of processes that have ended are removed."""
        on = engine()
        net = network(on)
        prune(on)
        return cls(on, net, make_keys(directory, net))

    def host(
        self,
        name: str = "",
        *,
        suite: Suite = "bookworm",
        variant: Variant = "full",
        user: str = "root",
        devices: Sequence[Device] = (),
        owner: str | None = None,
        docker_volume: bool = False,
        unified: bool = False,
    ) -> Host:
        """A fresh host that answers SSH (see `tests.hosts.host.create`)."""
        made = create(
            self.engine,
            self.network,
            self.keys,
            name=name or f"{suite}-{os.getpid()}-{next(self.numbers)}",
            image=image(self.engine, suite, variant),
            user=user,
            devices=devices,
            owner=owner,
            docker_volume=docker_volume,
            unified=unified,
        )
        self.hosts.append(made)
        return made

    def close(self) -> None:
        """Remove every host made here."""
        while self.hosts:
            self.hosts.pop().remove()
