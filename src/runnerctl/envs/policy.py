"""Which channels a store takes, where they really are, and whose they are."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote

import msgspec

from runnerctl.core.channels import plain_url
from runnerctl.core.sections import Conda
from runnerctl.envs.model import Channel, EnvironmentFile, Line
from runnerctl.errors import AccessError, DataError

__all__ = ["Policy", "Private", "Resolved", "policy_of"]

HOSTED = "https://conda.anaconda.org/"  # where engines look for a channel that is just named


class Private(msgspec.Struct, frozen=True):
    """A channel of one owner alone; several entries may give one channel several owners."""

    url: str
    owner: str


class Policy(msgspec.Struct, frozen=True):
    """``channels``: the only ones that a file may name; none: every one. ``aliases``: name -> address.

    ``local``: whether a file may name directories (``file://``) that ``channels`` does not. ``credentials``:
    path of the builder's file of channel credentials. ``quota_bytes``: how much one owner's environments may
    take. ``reserve_bytes``: what has to stay free on the disk, whatever is built.
    ``anyway``: code of packages runs where the kernel cannot confine it, too: the store is the user's own.
    """

    channels: tuple[str, ...] = ()
    aliases: dict[str, str] = {}
    private: tuple[Private, ...] = ()
    pip_index: str | None = None
    credentials: str | None = None
    local: bool = True
    quota_bytes: int | None = None
    reserve_bytes: int = 2 << 30
    anyway: bool = False

    def fingerprint(self) -> str:
        """Changes when a file may stand for something else, or may not be asked any more."""
        parts = (self.channels, sorted(self.aliases.items()), self.private, self.pip_index, self.local)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def resolve(self, file: EnvironmentFile, *, owner: str | None, everything: bool = False) -> Resolved:
        """The file's channels by address, and whose store the environment belongs to.

        ``owner``: for whom it is asked (a slot's owner at GitHub); ``everything``: root asks. Raises
        DataError for a channel that is not allowed, or channels of two owners; AccessError for another's.
        """
        channels, common = [], None
        for line in file.channels:
            url = self._address(line.text)
            owners = self._owners(line.text) | self._owners(url)
            self._allowed(line, url, private=bool(owners), where=file.where)
            if owners:
                common = owners if common is None else common & owners
                if not common:
                    what = "has private channels of two owners, and would belong to neither"
                    raise DataError(what, where=f"{file.where}:{line.line}", remedy="make a file for each")
                if owner is None or owner.lower() not in common:
                    self._refuse(line, everything, file.where)
            channels.append(Channel(url, min(owners) if owners else None))
        mine = (
            None if common is None else (owner.lower() if owner and owner.lower() in common else min(common))
        )
        return Resolved(
            tuple(msgspec.structs.replace(c, owner=mine if c.owner else None) for c in channels), mine
        )

    @staticmethod
    def _refuse(line: Line, everything: bool, where: str) -> None:
        if not everything:
            what = f"the channel {line.text!r} belongs to another owner than the one this job runs for"
            remedy = "ask whoever runs this host (conda_store_private_channels)"
            raise AccessError(what, where=f"{where}:{line.line}", remedy=remedy)

    def _address(self, text: str) -> str:
        """A channel's address after aliases; one without keeps its name, which engines know."""
        text = plain_url(text).removeprefix(HOSTED)
        if text in self.aliases:
            return plain_url(self.aliases[text])
        first, slash, rest = text.partition("/")
        if "://" not in text and slash and first in self.aliases:
            return f"{plain_url(self.aliases[first])}/{rest}"
        return text

    def _owners(self, text: str) -> set[str]:
        place = _place(text)
        return {
            each.owner.lower()
            for each in self.private
            if place == _place(each.url) or place.startswith(f"{_place(each.url)}/")
        }

    def _allowed(self, line: Line, url: str, *, private: bool, where: str) -> None:
        listed = {plain_url(each).removeprefix(HOSTED) for each in self.channels}
        listed |= {self._address(each) for each in self.channels}
        known = private or plain_url(line.text) in listed or url in listed
        if self.channels and not known:
            what = f"the channel {line.text!r} is not one that this host takes"
            remedy = f"it takes {', '.join(self.channels)} (conda_store_channels)"
            raise DataError(what, where=f"{where}:{line.line}", remedy=remedy)
        if plain_url(line.text).startswith("file:") and not self.local and not known:
            what = f"the channel {line.text!r} is a directory of this host"
            remedy = "list it in conda_store_channels, or give its address on a server"
            raise DataError(what, where=f"{where}:{line.line}", remedy=remedy)


class Resolved(msgspec.Struct, frozen=True):
    """Channels by address; ``owner``: whose store, None for everybody's."""

    channels: tuple[Channel, ...]
    owner: str | None = None


def _place(text: str) -> str:
    """Where an address points, in one form, so that no other spelling makes a private channel public."""
    plain = unquote(plain_url(text)).lower()
    place = plain.partition("://")[2] or plain
    return re.sub(r"/(\./)*/*", "/", re.sub(r":(80|443)(?=/|$)", "", place)).rstrip("/")


def policy_of(section: Conda, *, credentials: str | None = None) -> Policy:
    """The policy of a host, from its spec; ``credentials``: path of the file on this host."""
    quota = section.store_owner_quota_gib
    return Policy(
        channels=section.store_channels,
        aliases=section.store_aliases,
        private=tuple(Private(each.url, each.owner) for each in section.store_private_channels),
        pip_index=section.store_pip_index,
        credentials=credentials,
        local=False,
        quota_bytes=quota << 30 if quota is not None else None,
    )
