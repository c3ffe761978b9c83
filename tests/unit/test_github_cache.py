"""What lies on the controller's disk: private, whole, bounded, and never a secret that need not be there."""

from __future__ import annotations

import os
import stat
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from runnerctl.errors import ConfigError
from runnerctl.github import cache as module
from runnerctl.github.answers import Answers
from runnerctl.github.app import AppCredential
from runnerctl.github.apptoken import AppToken, KeptToken
from runnerctl.github.auth import TokenCredential
from runnerctl.github.cache import PrivateCache, cache_from, digest
from runnerctl.github.client import GitHubClient
from runnerctl.github.transport import Response
from tests.unit.github_answers import API, EPOCH, SECRET, Answer, Clock, wire

KEY = digest("a", "b")
RUNNERS = "/orgs/acme/actions/runners"
LATER = datetime.fromtimestamp(EPOCH + 3600, tz=timezone.utc)


def made(tmp_path: Path, **options: Any) -> tuple[PrivateCache, list[str]]:
    notes: list[str] = []
    return PrivateCache(tmp_path / "deep" / "cache", note=notes.append, **options), notes


def test_what_is_written_is_read_and_private(tmp_path: Path) -> None:
    cache, notes = made(tmp_path)
    assert cache.read("answer", KEY) is None
    cache.write("answer", KEY, b"body")
    assert cache.read("answer", KEY) == b"body"
    assert cache.read("token", KEY) is None
    (entry,) = [path for path in cache.root.iterdir() if path.name.startswith("answer.")]
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.root.stat().st_mode) == 0o700
    cache.forget("answer", KEY)
    assert cache.read("answer", KEY) is None
    assert notes == []


@pytest.mark.parametrize("damage", [b"", b"runnerctl cache 1 ", b"body", b"\x00" * 200])
def test_a_damaged_entry_is_absent(tmp_path: Path, damage: bytes) -> None:
    cache, notes = made(tmp_path)
    cache.write("answer", KEY, b"body")
    path = cache.root / f"answer.{KEY}"
    whole = path.read_bytes()
    for data in (damage, whole[:-1], whole[:-1] + b"x"):
        path.write_bytes(data)
        assert cache.read("answer", KEY) is None
    cache.write("answer", KEY, b"new")
    assert (cache.read("answer", KEY), notes) == (b"new", [])


def test_a_directory_that_is_open_to_others_is_not_used_and_said_once(tmp_path: Path) -> None:
    cache, notes = made(tmp_path)
    cache.write("answer", KEY, b"body")
    cache.root.chmod(0o750)
    for _ in range(2):
        assert cache.read("answer", KEY) is None
        cache.write("answer", KEY, b"other")
        with cache.lock(KEY, seconds=0) as held:
            assert held is False
    assert len(notes) == 1
    assert "RUNNERCTL_CACHE_DIR=off" in notes[0]


def test_files_of_others_links_and_open_files_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, _ = made(tmp_path)
    cache.write("answer", KEY, b"body")
    path = cache.root / f"answer.{KEY}"
    path.chmod(0o640)
    assert cache.read("answer", KEY) is None
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert cache.read("answer", KEY) is None
    path.unlink()
    os.mkfifo(path, 0o600)
    assert cache.read("answer", KEY) is None
    link = tmp_path / "link"
    link.symlink_to(cache.root)
    assert PrivateCache(link, note=lambda _: None).read("answer", KEY) is None
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert PrivateCache(cache.root, note=lambda _: None).read("answer", KEY) is None


def test_old_entries_and_those_of_the_future_are_absent(tmp_path: Path) -> None:
    now = [EPOCH]
    cache, _ = made(tmp_path, now=lambda: now[0])
    cache.write("answer", KEY, b"body")
    os.utime(cache.root / f"answer.{KEY}", (EPOCH, EPOCH))
    assert cache.read("answer", KEY, max_age_seconds=10) == b"body"
    now[0] = EPOCH + 11
    assert cache.read("answer", KEY, max_age_seconds=10) is None
    now[0] = EPOCH - 3600
    assert cache.read("answer", KEY) is None


def test_age_number_and_size_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 5)
    monkeypatch.setattr(module, "_SWEEP_WRITES", 4)
    cache, _ = made(tmp_path)
    for number in range(20):
        cache.write("answer", digest(str(number)), b"x" * 10)
    assert len(list(cache.root.iterdir())) <= 5 + 4 + 1
    monkeypatch.setattr(module, "MAX_BYTES", 300)
    for number in range(20, 25):
        cache.write("answer", digest(str(number)), b"x" * 100)
    assert sum(path.stat().st_size for path in cache.root.iterdir()) < 300 + 4 * 200
    cache.write("answer", KEY, b"x" * (module.MAX_ENTRY_BYTES + 1))
    assert cache.read("answer", KEY) is None


def test_what_somebody_else_put_there_is_never_removed(tmp_path: Path) -> None:
    """``RUNNERCTL_CACHE_DIR`` may be a home directory: private, and full of other things."""
    cache, _ = made(tmp_path)
    cache.root.mkdir(parents=True, mode=0o700)
    theirs = [cache.root / name for name in (".bashrc", "answer.txt", f"{KEY}", "new.1.x")]
    old = cache.root / f"answer.{KEY}"
    for path in (*theirs, old):
        path.write_text("kept")
        os.utime(path, (1, 1))
    cache.write("answer", digest("c"), b"body")
    assert [path.exists() for path in (*theirs, old)] == [True, True, True, True, False]


def test_a_lock_is_for_one(tmp_path: Path) -> None:
    waited: list[float] = []
    cache, _ = made(tmp_path, sleep=waited.append)
    with cache.lock(KEY, seconds=1) as first, cache.lock(KEY, seconds=0.5) as second:
        assert (first, second) == (True, False)
    assert 0.4 < sum(waited) <= 0.5
    with cache.lock(KEY, seconds=0) as again:
        assert again is True


def test_where_the_cache_is(tmp_path: Path) -> None:
    def root(**env: str) -> Path | None:
        found = cache_from(env)
        return found.root if found else None

    home = str(tmp_path)
    assert root(RUNNERCTL_CACHE_DIR="off", HOME=home) is None
    assert root(RUNNERCTL_CACHE_DIR="/x/y") == Path("/x/y")
    assert root(HOME=home) == tmp_path / ".cache/runnerctl/github"
    assert root(HOME=home, XDG_CACHE_HOME=f"{home}/c") == tmp_path / "c/runnerctl/github"
    assert root(HOME=home, XDG_CACHE_HOME="relative") == tmp_path / ".cache/runnerctl/github"
    assert root() is None
    with pytest.raises(ConfigError, match="RUNNERCTL_CACHE_DIR: 'here' is no absolute path"):
        root(RUNNERCTL_CACHE_DIR="here")


def test_nothing_is_made_in_the_home_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root with a user's HOME, as sudo leaves it."""
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert cache_from({"HOME": str(tmp_path)}) is None


# --- answers ---------------------------------------------------------------------------------------


def etagged(body: Any, **headers: str) -> Answer:
    return Answer(body=body, headers={"ETag": 'W/"1"', **headers})


def test_another_process_asks_conditionally(tmp_path: Path) -> None:
    cache, _ = made(tmp_path)
    link = f'<{API}{RUNNERS}?page=2>; rel="next"'
    first = wire(etagged({"runners": [{"id": 1}]}, Link=link), cache=cache)
    first.client.get(RUNNERS)
    second = wire(Answer(304), cache=cache)
    answer = second.client.get(RUNNERS)
    assert second.script.header(0, "if-none-match") == 'W/"1"'
    assert (answer.status, answer.json(), answer.headers["link"]) == (200, {"runners": [{"id": 1}]}, link)
    assert [call.status for call in second.client.calls] == [304]
    names = " ".join(path.name for path in cache.root.iterdir())
    assert SECRET not in names
    assert "acme" not in names


def test_what_a_token_may_is_asked_anew_each_time(tmp_path: Path) -> None:
    """Scopes and end stand in headers that 304 need not repeat."""
    cache, _ = made(tmp_path)
    headers = {"X-OAuth-Scopes": "admin:org", "ETag": 'W/"1"'}
    for _ in range(2):
        user = wire(Answer(body={"login": "mona"}, headers=headers), cache=cache)
        info = TokenCredential(SECRET, source="GH_TOKEN").describe(user.client)
        assert user.script.header(0, "if-none-match") is None
        assert info.scopes == ("admin:org",)


def test_last_modified_is_a_condition_too(tmp_path: Path) -> None:
    cache, _ = made(tmp_path)
    moment = "Sun, 22 Nov 2026 11:00:00 GMT"
    wire(Answer(body=[1], headers={"Last-Modified": moment}), cache=cache).client.get("/meta")
    second = wire(Answer(304), cache=cache)
    assert second.client.get("/meta").json() == [1]
    assert second.script.header(0, "if-modified-since") == moment


@pytest.mark.parametrize("change", ["credential", "api", "url"])
def test_answers_are_for_one_credential_and_one_api(tmp_path: Path, change: str) -> None:
    cache, _ = made(tmp_path)
    wire(etagged([1]), cache=cache).client.get("/meta")
    options: dict[str, Any] = {"api": {"api_url": "https://ghes/api/v3"}, "credential": {"anonymous": True}}
    other = wire(Answer(body=[2]), cache=cache, **options.get(change, {}))
    assert other.client.get("/meta", params={"a": 1} if change == "url" else None).json() == [2]
    assert other.script.header(0, "if-none-match") is None


@pytest.mark.parametrize("field", ["token", "temp_download_token", "encoded_jit_config"])
def test_an_answer_with_a_secret_stays_in_memory(tmp_path: Path, field: str) -> None:
    cache, _ = made(tmp_path)
    client = wire(etagged([{field: "hidden-value"}]), Answer(304), cache=cache).client
    assert client.get(f"{RUNNERS}/downloads") == client.get(f"{RUNNERS}/downloads")
    assert all(b"hidden-value" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_an_answer_whose_link_leads_away_is_not_kept(tmp_path: Path) -> None:
    """Kept, it would lead there again for as long as the server confirms it."""
    cache, _ = made(tmp_path)
    away = etagged({"runners": []}, Link='<https://evil.example/x>; rel="next"')
    wire(away, cache=cache).client.get(RUNNERS)
    second = wire(Answer(body=[]), cache=cache)
    second.client.get(RUNNERS)
    assert second.script.header(0, "if-none-match") is None


def test_memory_is_bounded() -> None:
    answers = Answers(None, owner="me")
    for number in range(20):
        url = f"{API}/{number}"
        answers.keep(url, Response(200, {"etag": "x"}, b"x" * 1_000_000, url))
    assert answers.find(f"{API}/0") is None
    assert answers.find(f"{API}/19") is not None


# --- App tokens ------------------------------------------------------------------------------------


class App:
    """An App credential whose minting goes over a script; ``kept`` as another process would have it."""

    def __init__(self, cache: PrivateCache | None, clock: Clock, *answers: Answer) -> None:
        self.wire = wire(*answers, clock=clock, anonymous=True)

        def connect(_: object) -> GitHubClient:
            return self.wire.client

        kept = KeptToken(cache, KEY)
        self.credential = AppCredential(
            "1", None, scope=None, installation_id=7, connect=connect, now=clock.utc, kept=kept
        )


def minted(token: str) -> Answer:
    return Answer(201, {"token": token, "expires_at": LATER.isoformat()})


def test_a_token_is_minted_once_for_all_processes(tmp_path: Path) -> None:
    cache, clock = made(tmp_path)[0], Clock()
    assert App(cache, clock, minted("ghs_one0000001")).credential.token() == "ghs_one0000001"
    assert App(cache, clock).credential.token() == "ghs_one0000001"
    clock.pass_by(3400)
    assert App(cache, clock, minted("ghs_two0000002")).credential.token() == "ghs_two0000002"


def test_a_refused_token_is_not_taken_from_the_disk_again(tmp_path: Path) -> None:
    cache, clock = made(tmp_path)[0], Clock()
    one = App(cache, clock, minted("ghs_one0000001"), minted("ghs_two0000002")).credential
    other = App(cache, clock).credential
    assert (one.token(), other.token()) == ("ghs_one0000001", "ghs_one0000001")
    assert one.renew() is True
    assert one.token() == "ghs_two0000002"
    assert other.renew() is True
    assert other.token() == "ghs_two0000002", "the one that another process minted since"


def test_a_damaged_token_is_minted_anew(tmp_path: Path) -> None:
    cache, clock = made(tmp_path)[0], Clock()
    cache.write("token", KEY, b'{"token": 1}')
    assert App(cache, clock, minted("ghs_one0000001")).credential.token() == "ghs_one0000001"
    assert "ghs_one" not in repr(AppToken("ghs_one0000001", LATER))
