"""How the faults of runners are made on a real host, and undone; used by `tests.system.runner_faults`."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.system.site import Site

ROOTS, UNITS = "/var/lib/gha-runner", "/etc/systemd/system"
ORGANISATION, GROUP = "/orgs/acme", "GPU pool"
ISSUER = "Corporate Inspection CA"
QUICK = "GHA_STAND_IN_TIME_SCALE=100"  # what the runner waits minutes for


def slots(base: str) -> list[dict[str, Any]]:
    """Two slots of a repository, and one in an organisation's runner group."""
    return [
        {"name": "a", "labels": ["first"]},
        {"name": "b", "labels": ["second"]},
        {"name": "c", "labels": ["third"], "url": f"{base}/acme", "group": GROUP},
    ]


def unit(slot: str) -> str:
    """The unit of a slot."""
    return f"gha-runner@{slot}"


def scope(site: Site, slot: str) -> str:
    """Where a slot is registered."""
    return ORGANISATION if slot == "c" else site.world.scope


def record(site: Site, slot: str) -> dict[str, Any] | None:
    """GitHub's record of a slot."""
    return site.github.runner(scope(site, slot), f"{site.host.name}-{slot}")


def online(site: Site, slot: str = "a") -> None:
    """Wait until GitHub sees a slot."""
    site.github.wait_runner(scope(site, slot), f"{site.host.name}-{slot}", seconds=60)


def restart(site: Site, slot: str = "a") -> None:
    """As a person would."""
    site.shell(f"systemctl reset-failed {unit(slot)}; systemctl restart {unit(slot)}")


def revive(site: Site, slot: str = "a") -> None:
    """The slot as it was provisioned, at work."""
    site.shell(f": > {ROOTS}/{slot}/.env; rm -f {UNITS}/{unit(slot)}.service.d/90-test.conf")
    site.shell("systemctl daemon-reload")
    restart(site, slot)
    online(site, slot)


def eventually(site: Site, condition: str, *, seconds: float = 20) -> None:
    """Wait until a shell command succeeds on the host."""
    deadline = time.monotonic() + seconds
    while site.host.exec("sh", "-c", condition, check=False).rc:
        assert time.monotonic() < deadline, (condition, site.host.journal(unit("a")))
        time.sleep(0.2)


def ended(site: Site, slot: str = "a") -> None:
    """Wait until the unit has ended."""
    eventually(site, f"! systemctl is-active -q {unit(slot)}")


def with_environ(site: Site, *lines: str) -> None:
    """The slot's runner starts again with these lines in its environment."""
    site.write(f"{ROOTS}/a/.env", "".join(f"{line}\n" for line in lines))
    restart(site)


def drop_in(site: Site, *lines: str) -> None:
    """Somebody edits the unit."""
    site.write(f"{UNITS}/{unit('a')}.service.d/90-test.conf", "[Service]\n" + "\n".join(lines) + "\n")
    site.shell("systemctl daemon-reload")


# -- how each is made --------------------------------------------------------------------------------------


def expire(site: Site) -> None:
    """As with `svc.sh`, whose supervisor turns the listener's end into a success."""
    drop_in(site, "SuccessExitStatus=1 7")
    with_environ(site, "GHA_STAND_IN_FAULT=exit1-after-listening", QUICK)
    ended(site)


def acknowledge_and_hang(site: Site) -> None:
    """A job is taken; no worker follows."""
    with_environ(site, "GHA_STAND_IN_FAULT=hang-after-ack")
    online(site)
    job = site.job("true", labels=["first"])
    site.github.wait_job(job, status="in_progress")
    eventually(site, f"journalctl -u {unit('a')} -n 3 -o cat | grep -q 'Running job'")


def forget_jobs(site: Site) -> None:
    """No job is left behind."""
    for job in site.github.jobs():
        if job.get("status") != "completed":
            site.github.cancel_job(job["id"])
    revive(site)


def delete_record(site: Site) -> None:
    """As by hand on GitHub's page."""
    site.github.delete_runner((record(site, "a") or {})["id"])
    ended(site)


def conflict(site: Site) -> None:
    """Another process holds the session for longer than the runner tries."""
    with_environ(site, "GHA_STAND_IN_FAULT=session-conflict", QUICK)
    ended(site)


def take_name(site: Site) -> None:
    """A second host registers the same name."""
    delete_record(site)
    site.github.add_runner(site.world.scope, f"{site.host.name}-a", labels=["first"], status="online")


def free_name(site: Site) -> None:
    """The second host goes away."""
    site.github.delete_runner((record(site, "a") or {})["id"])


def fill(site: Site) -> None:
    """A small disk of the slot's own, with nothing left on it."""
    work = f"{ROOTS}/a/_work"
    site.shell(f"mount -t tmpfs -o size=1m,uid=$(id -u gha-a),mode=700 tmpfs {work}")
    site.shell(f"head -c 2m /dev/zero > {work}/full 2>/dev/null || true")


def run_out_of_memory(site: Site) -> None:
    """The kernel kills what a job started; the unit goes on."""
    site.shell(f"systemctl set-property --runtime {unit('a')} MemoryMax=128M MemorySwapMax=0")
    job = site.job("/usr/bin/python3 -c 'x = bytearray(1 << 30)'", labels=["first"])
    assert site.result(job)[0] == "failure"


def give_memory_back(site: Site) -> None:
    """No limit; a new run of the unit counts from nought."""
    site.shell(f"rm -rf /run/systemd/system.control/{unit('a')}.service.d")
    revive(site)


def hang(site: Site) -> None:
    """Process, unit and connection live on; nobody polls."""
    with_environ(site, "GHA_STAND_IN_FAULT=hang", "GHA_STAND_IN_TIME_SCALE=25")
    online(site)
    site.github.wait_runner(site.world.scope, f"{site.host.name}-a", status="offline", seconds=60)


def leave_no_process(site: Site) -> None:
    """An edited unit counts as active when its program has ended."""
    drop_in(site, "ExecStart=", "ExecStart=/bin/true", "RemainAfterExit=yes")
    restart(site)


def unmask(site: Site) -> None:
    """Systemd may start it again."""
    site.shell(f"systemctl unmask {unit('a')}")
    revive(site)


def put_group(site: Site, group: str) -> None:
    """Move slot c by the REST API."""
    groups = call(site, "GET", f"{ORGANISATION}/actions/runner-groups")["runner_groups"]
    number = next(each["id"] for each in groups if each["name"] == group)
    runner = (record(site, "c") or {})["id"]
    call(site, "PUT", f"{ORGANISATION}/actions/runner-groups/{number}/runners/{runner}")


def call(site: Site, method: str, path: str) -> dict[str, Any]:
    """One request to GitHub's REST API."""
    headers = {"Authorization": f"Bearer {site.world.token}", "Accept": "application/vnd.github+json"}
    url = f"{site.world.github.url}/api/v3{path}"
    answer = requests.request(method, url, headers=headers, timeout=10)
    answer.raise_for_status()
    return dict(answer.json()) if answer.content else {}


def relabel(site: Site, *labels: str) -> None:
    """Somebody edits the labels on GitHub's page."""
    site.github.change_runner((record(site, "a") or {})["id"], labels=list(labels))


def lose_credentials(site: Site) -> None:
    """A tidy-up removed what it did not know; the next start fails."""
    site.shell(f"mv {ROOTS}/a/.credentials_rsaparams /root/kept")
    restart(site)
    ended(site)


def change_uid(site: Site) -> None:
    """The user was removed and made again: it has another number."""
    site.shell(f"systemctl stop {unit('a')}; id -u gha-a > /root/uid")
    site.shell("usermod -d /nonexistent -u 4242 gha-a; systemctl start " + unit("a") + "; true")
    ended(site)


def restore_uid(site: Site) -> None:
    """The old number again."""
    site.shell(f"systemctl stop {unit('a')}; usermod -u $(cat /root/uid) gha-a")
    site.shell(f"usermod -d {ROOTS}/a/home gha-a")
    revive(site)


DEAD = "github-enterprise.example"


def kill_dns(site: Site) -> None:
    """The name server is gone."""
    site.shell("cp /etc/resolv.conf /root/resolv; echo nameserver 127.0.0.1 > /etc/resolv.conf")


@contextmanager
def interceptor(site: Site) -> Iterator[int]:
    """Something between host and GitHub that speaks TLS with a certificate of its own; yields its port."""
    folder = Path(site.controller.directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(folder / "intercepted.pem"))
    with ThreadingHTTPServer(("0.0.0.0", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join(5)


def _certificate(path: Path) -> Path:
    """A certificate for api.github.com of a private issuer, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)]),
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "api.github.com")]),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(days=1),
        not_valid_after=now + timedelta(days=1),
    )
    names = x509.SubjectAlternativeName([x509.DNSName("api.github.com")])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    path.chmod(0o600)
    return path


_INTERCEPTORS: list[tuple[Any, int]] = []


def intercept(site: Site) -> None:
    """The host finds the interceptor where api.github.com should be."""
    manager = interceptor(site)
    _INTERCEPTORS.append((manager, manager.__enter__()))
    gateway = site.world.github.url.split("//")[1].split(":")[0]
    site.shell(f"cp /etc/hosts /root/hosts; echo {gateway} api.github.com >> /etc/hosts")


def let_pass(site: Site) -> None:
    """The way is free again."""
    site.shell("cat /root/hosts > /etc/hosts")
    _INTERCEPTORS.pop()[0].__exit__(None, None, None)


def intercepted(_: Site) -> str:
    """The URL that the interceptor answers in place of GitHub's."""
    return f"https://api.github.com:{_INTERCEPTORS[-1][1]}"
