"""How much systemd finds open in the units of slots, and in the one that the runner comes with."""

from __future__ import annotations

from pathlib import Path

from plugins.module_utils.slot_containers import engine_templates
from tests.system.site import Site

__all__ = ["exposures"]

TEMPLATE = Path(__file__).parents[1] / "tests/fakes/runner_dist/layout/bin/actions.runner.service.template"
STOCK = {"{{Description}}": "stock", "{{RunnerRoot}}": "/home/stock/runner", "{{User}}": "stock"}


def exposures(site: Site) -> dict[str, str]:
    """Unit -> its exposure level, in words of systemd-analyze; of the units as they stand on a host."""
    stock = TEMPLATE.read_text()
    for mark, value in STOCK.items():
        stock = stock.replace(mark, value)
    site.host.put("/root/units/stock.service", stock)
    for name, text in engine_templates().items():
        site.host.put(f"/root/units/{name}", text)
    named = {
        "persistent slot": "/etc/systemd/system/gha-runner@.service",
        "ephemeral slot": "/etc/systemd/system/gha-ephemeral@.service",
        "a slot's container engine, without root (the slot's own unit stays as it is)": (
            "/root/units/gha-containers@.service"
        ),
        "what mints an ephemeral slot's registrations": "/etc/systemd/system/gha-mint@.service",
        "stock: `svc.sh install`": "/root/units/stock.service",
    }
    return {title: _level(site, path) for title, path in named.items()}


def _level(site: Site, path: str) -> str:
    said = site.shell(f"systemd-analyze security --offline=true --no-pager {path} 2>/dev/null | tail -1")
    return said.partition(":")[2].strip().rstrip(" :-(){D") or "not known"
