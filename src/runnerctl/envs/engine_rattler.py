"""conda environments by rattler's library: the one module that knows its interface.

It solves with strict channel priority, checks every archive against the sha256 of its channel's index, checks
what it takes from the package cache file by file, and runs no script of a package. Its Rust code can end a
process (a panic), so it belongs into a child: `engine_child`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from runnerctl.envs import lockfile
from runnerctl.envs._engine_errors import (
    channel_error,
    install_error,
    is_spoilt,
    one_line,
    unsatisfiable,
)
from runnerctl.envs._local_archives import check_local
from runnerctl.envs.model import Event, Line, Package, Solution, VirtualPackage
from runnerctl.envs.package_paths import Linked, record_fault
from runnerctl.envs.pip_section import install_pip
from runnerctl.envs.ports import Installed, Order, Tell
from runnerctl.envs.store_files import remove_tree
from runnerctl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rattler import Gateway, GenericVirtualPackage, MatchSpec, RepoDataRecord, Subdir
    from rattler.networking import Client

__all__ = ["Rattler"]

RETRIES = 3
REQUEST_SECONDS = 300
SHOWN_VERSIONS = 5
ENVIRONMENT = "default"  # its name in a lock
DISTRUST = "do not use it, and tell whoever keeps the channel"
T = TypeVar("T")


class Rattler:
    """Solves and installs in this process; see `ports.Engine` for what it raises."""

    def __init__(self) -> None:
        try:
            import rattler
        except ImportError:
            what = "environments need py-rattler, which is not installed here"
            raise ConfigError(what, remedy="pip install 'runnerctl[env]'") from None
        self._lib = rattler
        self._locks: dict[tuple[Package, ...], str] = {}

    def solve(self, order: Order, tell: Tell) -> Solution:
        """Decide on every package, or take those of ``order.lock``."""
        tell(Event("solve"))
        with _credentials(order):
            if order.lock is not None:
                records = self._locked(order, order.lock, checked=True)
            else:
                records = _run(self._solved(order, tell))
        packages = tuple(sorted((_package(record) for record in records), key=lambda one: one.name))
        solution = Solution(packages, self._lock(order, records))
        self._locks[packages] = solution.lock
        tell(Event("solve", done=len(packages), total=len(packages)))
        return solution

    def install(self, order: Order, packages: Sequence[Package], prefix: Path, tell: Tell) -> Installed:
        """Fetch, verify and link ``packages``, then pip's section."""
        wanted = {package.url: package for package in packages}
        with _credentials(order):
            lock = self._locks.get(tuple(packages), order.lock)
            known = self._locked(order, lock) if lock is not None else _run(self._queried(order, packages))
            records = [record for record in known if record.url in wanted]
            if len(records) != len(wanted) or any(_package(one) != wanted[one.url] for one in records):
                what = "a channel's index has changed between solving and installing"
                raise DataError(what, where=order.file.where, remedy="run it again")
            for record in records:
                _check_record(record, order)
            check_local(records, order.caches.packages)
            _run(self._linked(order, records, prefix, tell))
        for file in (prefix / "conda-meta").glob("*.json"):
            file.chmod(0o644)  # rattler's are for the owner alone
        python = next((package for package in packages if package.name == "python"), None)
        program = "bin/python" if python and (prefix / "bin/python").exists() else None
        pip = install_pip(order, prefix, tell) if order.file.pip else ()
        return Installed(pip, program, python.version if python and program else None)

    async def _solved(self, order: Order, tell: Tell) -> list[RepoDataRecord]:
        try:
            return await self._answer(order)
        except self._exceptions().GatewayError as error:
            raise channel_error(str(error), self._lines(order), order.file.where) from None
        except self._exceptions().SolverError as error:
            text = str(error)
        tell(Event("solve", text="\n".join(text.splitlines()[:60])))
        versions = await self._versions(order, self._gateway(order), text)
        raise unsatisfiable(text, order.file, versions=lambda _: versions)

    async def _answer(self, order: Order) -> list[RepoDataRecord]:
        specs = self._specs(order)

        async def solve() -> list[RepoDataRecord]:
            found: list[RepoDataRecord] = await self._lib.solve(
                self._channels(order),
                specs,
                gateway=self._gateway(order),
                platforms=self._platforms(order),
                virtual_packages=[self._virtual(one) for one in order.facts.virtual],
                channel_priority=self._lib.ChannelPriority.Strict,
            )
            return found

        return await self._indexed(order, solve)

    async def _indexed(self, order: Order, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer. An index that was kept, and is not what it was, is fetched anew.

        rattler neither mends a file that a kill or a full disk cut short, nor takes "not modified" for one.
        """
        try:
            return await ask()
        except self._exceptions().GatewayError as error:
            if not is_spoilt(str(error)):
                raise
        remove_tree(order.caches.repodata)
        return await ask()

    async def _versions(self, order: Order, gateway: Gateway, text: str) -> list[str]:
        """The newest versions of the one package that nothing fits, newest first."""
        name = text.rpartition("No candidates were found for ")[2].split(" ")[0]
        if name.startswith("__") or "\n" in name:
            return []
        found = await self._query(order, gateway, [name])
        newest = sorted({record.version for record in found}, reverse=True)
        return [str(version) for version in newest[:SHOWN_VERSIONS]]

    async def _query(self, order: Order, gateway: Gateway, names: Sequence[str]) -> list[RepoDataRecord]:
        found = await gateway.query(self._channels(order), self._platforms(order), names, recursive=False)
        return [record for each in found for record in each]

    async def _queried(self, order: Order, packages: Sequence[Package]) -> list[RepoDataRecord]:
        names = sorted({one.name for one in packages})
        try:
            return await self._indexed(order, lambda: self._query(order, self._gateway(order), names))
        except self._exceptions().GatewayError as error:
            raise channel_error(str(error), self._lines(order), order.file.where) from None

    async def _linked(self, order: Order, records: list[RepoDataRecord], prefix: Path, tell: Tell) -> None:
        lib = self._lib
        layer = lib.PackageCacheLayer(order.caches.packages)
        cache = lib.PackageCache.from_layers([layer.with_validation_mode(lib.ValidationMode.full())])
        tell(Event("fetch", total=len(records)))
        reporter = _Reporter(tell, {r.name.normalized: order.caches.packages / _stem(r) for r in records})
        try:
            await lib.install(
                records,
                prefix,
                platform=lib.Subdir(order.facts.subdir),
                execute_link_scripts=False,
                client=self._client(),
                reporter=reporter,
                package_cache=cache,
                show_progress=False,
            )
        except Exception as error:
            raise (reporter.fault or install_error(str(error))) from None
        if reporter.fault or reporter.unseen:
            raise reporter.fault or install_error("packages were linked that nobody had looked at")

    def _specs(self, order: Order) -> list[MatchSpec]:
        return [self._spec(line, order.file.where) for line in order.file.specs]

    def _spec(self, line: Line, where: str) -> MatchSpec:
        try:
            return self._lib.MatchSpec(line.text, strict=False)
        except Exception as error:
            what = f"{line.text!r} cannot be read as a dependency: {one_line(str(error), 120)}"
            remedy = "write name, name=1.2 or name>=1.2,<2"
            raise DataError(what, where=f"{where}:{line.line}", remedy=remedy) from None

    def _channels(self, order: Order) -> list[Any]:
        return [self._lib.Channel(channel.url) for channel in order.channels]

    def _lines(self, order: Order) -> dict[str, Line]:
        pairs = zip(self._channels(order), order.file.channels, strict=False)
        return {str(channel.base_url): line for channel, line in pairs}

    def _virtual(self, one: VirtualPackage) -> GenericVirtualPackage:
        lib = self._lib
        version, build = lib.Version(one.version), lib.BuildString(one.build)
        package: GenericVirtualPackage = lib.GenericVirtualPackage(lib.PackageName(one.name), version, build)
        return package

    def _platforms(self, order: Order) -> list[Subdir]:
        return [self._lib.Subdir(order.facts.subdir), self._lib.Subdir("noarch")]

    def _client(self) -> Client:
        from rattler.networking import AuthenticationMiddleware, Client, RetryMiddleware

        return Client(
            [RetryMiddleware(RETRIES), AuthenticationMiddleware()],
            user_agent="runnerctl",
            timeout=REQUEST_SECONDS,
        )

    def _gateway(self, order: Order) -> Gateway:
        order.caches.repodata.mkdir(parents=True, exist_ok=True)
        return self._lib.Gateway(cache_dir=order.caches.repodata, client=self._client())

    def _exceptions(self) -> Any:
        import rattler.exceptions

        return rattler.exceptions

    def _lock(self, order: Order, records: Sequence[RepoDataRecord]) -> str:
        lib = self._lib
        lock = lib.LockFile([lib.LockPlatform(order.facts.subdir)])
        lock.set_channels(ENVIRONMENT, [lib.LockChannel(str(one.base_url)) for one in self._channels(order)])
        (platform,) = lock.platforms()  # a platform of another lock makes the library panic
        for record in records:
            lock.add_conda_package(ENVIRONMENT, platform, record)
        with tempfile.TemporaryDirectory(prefix="runnerctl-") as folder:
            lock.to_path(Path(folder, "lock"))
            text = Path(folder, "lock").read_text(encoding="utf-8")
        return lockfile.write(text, order.file, files=order.files)

    def _locked(self, order: Order, text: str, *, checked: bool = False) -> list[RepoDataRecord]:
        """The packages of a lock for this platform; ``checked``: it came from outside."""
        lock = lockfile.read(text)
        if checked:
            lockfile.check(lock, order.file, files=order.files, engine="rattler")
        with tempfile.TemporaryDirectory(prefix="runnerctl-") as folder:
            Path(folder, "lock").write_text(lock.body, encoding="utf-8")
            try:
                read = self._lib.LockFile.from_path(Path(folder, "lock"))
                environment = read.environment(ENVIRONMENT)
                found = environment.conda_repodata_records() if environment else {}
                bases = [str(channel) for channel in environment.channels()] if environment else []
            except Exception as error:
                what = f"the lock cannot be read: {one_line(str(error), 160)}"
                raise DataError(what, where=order.file.where, remedy=lockfile.MAKE_ANEW) from None
        records = found.get(order.facts.subdir)
        if not records:
            what = f"the lock has nothing for {order.facts.subdir} (it has {', '.join(found) or 'nothing'})"
            raise DataError(what, where=order.file.where, remedy=lockfile.MAKE_ANEW)
        if checked:
            self._check_locked(order, records, bases)
        return records

    def _check_locked(self, order: Order, records: Sequence[RepoDataRecord], bases: Sequence[str]) -> None:
        """A lock may take packages from the file's channels only, with a hash, and what this host can run."""
        here = [str(channel.base_url) for channel in self._channels(order)]
        if len(bases) == len(here):  # the same channels in the same order; this host may have a mirror
            pairs = [(base.rstrip("/") + "/", mirror) for base, mirror in zip(bases, here, strict=True)]
            for record in records:
                base, mirror = next((pair for pair in pairs if record.url.startswith(pair[0])), ("", ""))
                if base != mirror:
                    record.url = mirror + record.url.removeprefix(base)
                    record.channel = mirror
        for record in records:
            foreign = not record.url.startswith(tuple(here))
            if foreign or ".." in record.url or not record.sha256:
                what = f"the lock has {record.file_name}, which " + (
                    "comes from no channel of the file" if foreign else "has no sha256"
                )
                raise DataError(what, where=order.file.where, remedy=lockfile.MAKE_ANEW)
        self._check_virtual(order, records)

    def _check_virtual(self, order: Order, records: Sequence[RepoDataRecord]) -> None:
        has = {one.name: self._lib.Version(one.version) for one in order.facts.virtual}
        for record in records:
            for need in (need for need in record.depends if need.startswith("__")):
                spec = self._lib.MatchSpec(need, strict=False)
                name = need.split()[0]
                version = str(spec.version) if spec.version else "*"
                if name not in has or not self._lib.VersionSpec(version).matches(has[name]):
                    what = f"the lock has {record.file_name}, which needs {need}: this host does not have it"
                    raise DataError(what, where=order.file.where, remedy="lock on a host of this kind")


class _Reporter:
    """rattler's callbacks as events; it calls those that are there."""

    def __init__(self, tell: Tell, places: Mapping[str, Path]) -> None:
        self.tell = tell
        self.total = self.fetched = self.linked = 0
        self.fault: DataError | None = None
        self.unseen = dict(places)
        self._names: list[str] = []
        self._linked = Linked()
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *_: 0
        raise AttributeError(name)

    def on_transaction_start(self, total_operations: int) -> None:
        """How many packages there are."""
        self.total = total_operations

    def on_populate_cache_start(self, operation: int, package_name: str) -> int:
        """Remember which package it is."""
        del operation
        with self._lock:
            self._names.append(package_name)
            return len(self._names) - 1

    def on_populate_cache_complete(self, cache_entry: int) -> None:
        """One package is in the cache and verified. It is linked when this returns: unless it is gone."""
        with self._lock:
            name = self._names[cache_entry]
            place = self.unseen.pop(name, None)
            what = self._linked.fault(place) if place else None
            if place and what:
                self.fault = DataError(f"the package {name} {what}", where=place.name, remedy=DISTRUST)
                remove_tree(place)
        self.fetched += 1
        self.tell(Event("fetch", done=self.fetched, total=self.total))

    def on_link_complete(self, index: int) -> None:
        """One package is in the prefix."""
        del index
        self.linked += 1
        self.tell(Event("link", done=self.linked, total=self.total))


def _stem(record: RepoDataRecord) -> str:
    """The folder of a package in the cache."""
    return f"{record.name.normalized}-{record.version}-{record.build}"


def _check_record(record: RepoDataRecord, order: Order) -> None:
    """What an index may say: it names files of its own channel, with a hash, by words that are no paths.

    An environment is known by the addresses and hashes of its packages, so an index that spoke of another
    channel's packages, in words of its own, would decide what others find under their names.
    """
    words = (record.name.normalized, str(record.version), str(record.build))
    what = record_fault(*words, site=record.python_site_packages_path)
    bases = tuple(_base(channel.url) for channel in order.channels)
    if what is None and (not record.url.startswith(bases) or ".." in record.url):
        what = "lies at another place than its channel"
    if what is None and not record.sha256:
        what = "has no sha256 in its channel's index"
    if what is not None:
        raise DataError(f"the package {words[0][:80]!r} {what}", where=order.file.where, remedy=DISTRUST)


def _base(channel: str) -> str:
    from rattler import Channel

    return str(Channel(channel).base_url)


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _package(record: RepoDataRecord) -> Package:
    return Package(
        name=record.name.normalized,
        version=str(record.version),
        build=str(record.build),
        url=record.url,
        sha256=record.sha256.hex() if record.sha256 else None,
        size_bytes=record.size,
        noarch=record.subdir == "noarch",
    )


@contextmanager
def _credentials(order: Order) -> Iterator[None]:
    """Show rattler the file of credentials, or none: never those of whoever runs this."""
    name = "RATTLER_AUTH_FILE"
    before = os.environ.get(name)
    with tempfile.NamedTemporaryFile("w", prefix="runnerctl-", suffix=".json") as nothing:
        nothing.write("{}")
        nothing.flush()
        os.environ[name] = str(order.credentials or nothing.name)
        try:
            yield
        finally:
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before
