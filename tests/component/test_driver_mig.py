"""MIG layouts: applied once, left alone when equal or in use, and applied again at boot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_mig import Mig, instances
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_plan import MigPlan
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError

from tests.component.driver_support import A, B, Machine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


# -- MIG ---------------------------------------------------------------------------------------------------

TABLE = """+-------------------------------------------------------+
| GPU instances:                                        |
| GPU   Name             Profile  Instance   Placement  |
|                          ID       ID       Start:Size |
|=======================================================|
"""
SMI = """
state={state}
uuid=$(echo "$*" | sed -n 's/.*-i \\(GPU-[0-9a-f-]*\\).*/\\1/p')
case "$*" in
  *--query-gpu*) for f in $state/*.mode; do echo "$(basename $f .mode), $(cat $f)"; done ;;
  *"-mig 1") echo Enabled >$state/$uuid.mode ;;
  *-lgi) cat {table}
     for p in $(cat $state/$uuid.gi); do echo "|   0  MIG $p       19        7          4:1     |"; done ;;
  *-dci) [ -s $state/$uuid.gi ] || exit 6 ;;
  *-dgi) [ -s $state/$uuid.gi ] || exit 6; : >$state/$uuid.gi ;;
  *-cgi*) [ -s $state/$uuid.gi ] && {{ echo "Insufficient resources" >&2; exit 19; }}
     echo "$*" | sed 's/.*-cgi \\([^ ]*\\) -C/\\1/; s/,/ /g' >$state/$uuid.gi ;;
  *) exit 2 ;;
esac
"""


@pytest.fixture
def cut(machine: Machine, tmp_path: Path) -> Machine:
    """Two GPUs, the first with MIG on and cut into two; `nvidia-smi` keeps their state in files."""
    state = tmp_path / "smi"
    state.mkdir()
    (state / f"{A}.mode").write_text("Enabled\n")
    (state / f"{A}.gi").write_text("1g.10gb 3g.40gb\n")
    (state / f"{B}.mode").write_text("Disabled\n")
    (state / f"{B}.gi").write_text("")
    (tmp_path / "table").write_text(TABLE)
    machine.program("nvidia-smi", SMI.format(state=state, table=tmp_path / "table"))
    return machine


def _changes(machine: Machine) -> list[str]:
    return [call for call in machine.calls() if not call.endswith("-lgi") and "--query" not in call]


def test_a_layout_is_applied_once_and_an_equal_one_left_alone(cut: Machine) -> None:
    layout = [MigPlan(("3g.40gb", "1g.10gb"), (A,)), MigPlan(("1g.10gb", "1g.10gb"), (B,))]
    predicted = cut.work(check=True)
    Mig(predicted, layout).apply(busy=[])
    assert _changes(cut) == []
    work = cut.work()
    Mig(work, layout).apply(busy=[])
    assert work.actions == predicted.actions == [f"{B} cut into 1g.10gb, 1g.10gb"]
    assert _changes(cut) == [
        f"nvidia-smi -i {B} -mig 1",
        f"nvidia-smi mig -i {B} -cgi 1g.10gb,1g.10gb -C",
    ]
    again = cut.work()
    Mig(again, layout).apply(busy=[])
    assert again.actions == []


def test_a_gpu_in_use_is_never_cut(cut: Machine) -> None:
    work = cut.work()
    Mig(work, [MigPlan(("7g.80gb",), (A,))]).apply(busy=["python (7)"])
    assert (work.actions, _changes(cut)) == ([], [])
    assert work.notes == [f"{A} cut into 7g.80gb: pending, GPUs are in use by python (7)"]
    Mig(work, [MigPlan(("7g.80gb",), (A,))]).apply(busy=[])
    assert _changes(cut) == [
        f"nvidia-smi mig -i {A} -dci",
        f"nvidia-smi mig -i {A} -dgi",
        f"nvidia-smi mig -i {A} -cgi 7g.80gb -C",
    ]


def test_the_layout_is_applied_again_at_boot(machine: Machine) -> None:
    mig = Mig(machine.work(), [MigPlan(("1g.10gb", "1g.10gb"), (A,)), MigPlan(("7g.80gb",))])
    assert mig.files()
    assert not mig.files()
    unit = (machine.root / "etc/systemd/system/runnerctl-mig.service").read_text()
    assert [line for line in unit.splitlines() if line.startswith("ExecStart=")] == [
        f"ExecStart=/usr/bin/nvidia-smi -i {A} -mig 1",
        f"ExecStart=/usr/bin/nvidia-smi mig -i {A} -cgi 1g.10gb,1g.10gb -C",
        "ExecStart=/usr/bin/nvidia-smi -mig 1",
        "ExecStart=/usr/bin/nvidia-smi mig -cgi 7g.80gb -C",
    ]
    assert json.loads((machine.root / "etc/runnerctl/mig.json").read_text())["layout"][0]["gpus"] == [A]
    assert Mig(machine.work(), []).files()
    assert not (machine.root / "etc/runnerctl/mig.json").exists()


@pytest.mark.parametrize(
    "entry",
    [
        MigPlan(("1g.10gb; reboot",)),
        MigPlan(("x",)),
        MigPlan(("19",)),  # an id: its instance is listed by name, and would be cut anew in every run
        MigPlan(("1g.10gb",), ("0 -r",)),
    ],
)
def test_what_is_no_layout_is_refused(machine: Machine, entry: MigPlan) -> None:
    """It would become part of a command line."""
    with pytest.raises(HostError, match="nvidia_driver_mig"):
        Mig(machine.work(), [entry])


def test_every_profile_that_inventory_may_name(machine: Machine) -> None:
    Mig(machine.work(), [MigPlan(("1g.10gb", "1g.10gb+me", "1g.24gb-me", "4g.96gb+gfx", "4g.71gb+me.all"))])


def test_a_gpu_that_is_not_there_is_named(cut: Machine) -> None:
    missing = "GPU-00000000-0000-0000-0000-000000000000"
    with pytest.raises(HostError, match=f"GPU {missing} is not on this host"):
        Mig(cut.work(), [MigPlan(("1g.10gb",), (missing,))]).apply(busy=[])


def test_instances_are_read_from_the_table() -> None:
    rows = "|   0  MIG 1g.10gb+me    20        7          0:1     |\n|   0  MIG 3g.40gb    9   2   4:4 |\n"
    assert instances(TABLE + rows) == ["1g.10gb+me", "3g.40gb"]
    assert instances("No GPU instances found: Not Found\n") == []
