"""What inventory may say of the store of environments."""

from __future__ import annotations

from typing import Any

import pytest

from runnerctl.core.scope import owner_of
from runnerctl.core.spec import host_spec

OWN = "https://conda.acme.example/team"
PRIVATE = "conda_store_private_channels"


def _problems(**values: Any) -> list[str]:
    given = {
        "github_runner_url": "https://github.com/Acme/widgets",
        "github_runner_slots": [{"name": "a"}, {"name": "b", "url": "https://github.com/enterprises/big"}],
        **values,
    }
    return [problem.line("h1") for problem in host_spec("h1", given)[1]]


def _private(url: str = OWN, owner: str = "acme") -> list[dict[str, str]]:
    return [{"url": url, "owner": owner}]


GOOD: list[dict[str, Any]] = [
    {"conda_store": False},
    {"conda_store_channels": ["conda-forge", "https://mirror.example/nvidia", "file:///srv/channel"]},
    {"conda_store_aliases": {"conda-forge": "https://mirror.example/conda-forge"}},
    {PRIVATE: _private(), "conda_store_credentials_file": "secrets/channels.json"},
    {PRIVATE: _private(owner="ACME")},
    {PRIVATE: _private("http://10.0.0.5:8000/channel")},
    {"conda_store_pip_index": "https://index.example/simple"},
]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"conda_store_budget_gib": 0}, "conda_store_budget_gib: is 0; give at least 1"),
    ({"conda_store_budget_gib": 1 << 40}, "conda_store_budget_gib: is 1099511627776; give at most"),
    ({"conda_store_owner_quota_gib": -1}, "conda_store_owner_quota_gib: is -1; give at least 1"),
    ({"conda_store_keep_days": 0}, "conda_store_keep_days: is 0; give at least 1"),
    ({"conda_store_channels": ["defaults"]}, "conda_store_channels[0]: the channel 'defaults' is Anaconda's"),
    (
        {"conda_store_channels": ["https://me:hidden@h/c"]},
        "has a credential in its address; write it without",
    ),
    ({"conda_store_channels": ["https://h/t/hidden-1/c"]}, "has a credential in its address"),
    ({"conda_store_channels": ["../x"]}, "is a path; give a channel's name"),
    ({"conda_store_aliases": {"a b": "https://h/c"}}, "conda_store_aliases.a b: is no channel's name"),
    ({"conda_store_aliases": {"defaults": "https://h/c"}}, "is Anaconda's own channel"),
    ({"conda_store_aliases": {"x": "https://repo.anaconda.com/pkgs/main"}}, "is Anaconda's own channel"),
    ({"conda_store_aliases": {"x": "conda-forge"}}, "is 'conda-forge'; give it as https://HOST/PATH"),
    ({"conda_store_aliases": {"x": "https://u:hidden@h/c"}}, "has a credential in its address"),
    ({PRIVATE: _private("http://conda.example/c")}, "[0].url: 'http://conda.example/c' is plain HTTP"),
    ({PRIVATE: _private("team")}, "[0].url: is 'team'; give it as https://HOST/PATH"),
    ({PRIVATE: _private("https://hidden@h/c")}, "[0].url: a channel has a credential in its address"),
    ({PRIVATE: _private(owner="a/b")}, "[0].owner: is 'a/b'; give the user or the organisation"),
    ({PRIVATE: _private(owner="other")}, "'other' is the owner of no slot of this host: nobody could use it"),
    ({PRIVATE: _private() + _private(OWN + "/", "Acme")}, "[1]: is given twice"),
    ({PRIVATE: [{"url": OWN}]}, PRIVATE),
    ({"conda_store_pip_index": "index"}, "conda_store_pip_index: is 'index'; give it as"),
    ({"conda_store_pip_index": "https://u:hidden@h/simple"}, "has a credential in its address; every user"),
    ({"conda_store_credentials_file": "https://h/x"}, "is an address; give the path of a JSON file"),
    ({"conda_store_credentials_file": "a\nb"}, "conda_store_credentials_file: is 'a\\nb'"),
]


@pytest.mark.parametrize("values", GOOD, ids=[str(index) for index in range(len(GOOD))])
def test_what_a_site_may_want(values: dict[str, Any]) -> None:
    """Mirrors, private channels of an owner in any case, an index of one's own."""
    assert _problems(**values) == []


@pytest.mark.parametrize(("values", "expected"), BAD, ids=[str(index) for index in range(len(BAD))])
def test_what_is_refused(values: dict[str, Any], expected: str) -> None:
    """By its variable, with what to do, and without a secret."""
    lines = _problems(**values)
    assert any(expected in line for line in lines), lines
    assert not [line for line in lines if "hidden" in line]


def test_whose_a_scope_is() -> None:
    """An enterprise's runners take jobs of many owners."""
    assert owner_of("https://github.com/Acme/widgets") == "acme"
    assert owner_of("https://ghes.example/acme") == "acme"
    assert owner_of("https://github.com/enterprises/big") is None
    assert owner_of("nonsense") is None
