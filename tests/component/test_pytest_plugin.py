"""The pytest plugin in runs of their own: what they end with, and what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from runnerctl import pytest_plugin
from tests.fakes import nvml

GIB = 2**30
CHILD = """
import functools, os, pathlib
import runnerctl.gpu_child as it
here = pathlib.Path({here!r})
text = (here / "scenario").read_text().replace("PYTEST", str(os.getppid()))
os.environ["NVML_SCENARIO"] = str(here / f"scenario.{{os.getpid()}}")
pathlib.Path(os.environ["NVML_SCENARIO"]).write_text(text)
it.Nvml = functools.partial(it.Nvml, dev=here / "dev")
it.main()
"""
CONFTEST = """
import runnerctl.gpu_watch
load = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
runnerctl.gpu_watch.CODE = load + "exec(open({child!r}).read())"
"""
ONE = f"gpu.0.compute_processes PYTEST:{GIB} 1:{5 * GIB}\n"


class Project:
    """A project with tests, on a machine with the GPUs of a scenario."""

    def __init__(self, root: Path, library: Path) -> None:
        self.root, self._library = root, library
        (root / "dev").mkdir()
        for name in ("nvidiactl", "nvidia0"):
            (root / "dev" / name).touch()
        (root / "child.py").write_text(CHILD.format(here=str(root)))
        (root / "conftest.py").write_text(CONFTEST.format(child=str(root / "child.py")))
        (root / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p no:cacheprovider\n")

    def run(self, tests: str, *options: str, scenario: str = ONE, **environ: str) -> tuple[int, str]:
        """Exit status and output."""
        (self.root / "scenario").write_text(scenario)
        (self.root / "test_it.py").write_text(f"import pytest, os, sys\n{tests}")
        env = nvml.environment(self._library, self.root / "unused") | environ
        command = [sys.executable, "-m", "pytest", "-q", "-ra", *options]
        done = subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """With one GPU."""
    library = nvml.build(tmp_path_factory.getbasetemp().parent / "nvml")
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project", library)


def _lines(output: str, pattern: str) -> list[str]:
    return [line for line in output.splitlines() if re.search(pattern, line)]


BUDGETS = """
@pytest.mark.gpu(vram="2GiB")
def test_within(): pass
@pytest.mark.gpu(vram="512MiB")
def test_over(): pass
@pytest.mark.gpu(vram="512MiB")
def test_broken(): assert 1 == 2
@pytest.mark.gpu
def test_latency(gpu_latency):
    assert gpu_latency(lambda: None, repeats=5, max_median="1s").median < 1
@pytest.mark.gpu(max_median="1us")
def test_slow(gpu_latency):
    import time
    gpu_latency(lambda: time.sleep(0.002), warmup=1, repeats=3)
@pytest.mark.gpu(max_median="1s")
def test_unmeasured(): pass
@pytest.mark.gpu(count=2)
def test_two(): pass
def test_cpu(): pass
"""


def test_budgets_hold_and_every_gpu_test_has_a_line(project: Project) -> None:
    """Over is a failure with peak and budget; what others hold on the GPU does not count."""
    status, output = project.run(BUDGETS, "--require-gpu")
    assert status == 1, output
    assert "VRAM: the peak of 1.00 GiB is over the budget of 512.00 MiB" in output
    failed = re.findall(r"^FAILED test_it.py::(\w+)", output, re.MULTILINE)
    assert failed == ["test_over", "test_broken", "test_slow", "test_unmeasured"]
    assert "assert 1 == 2" in output
    assert "latency: median 2." in output
    assert "no latency was measured, though the mark bounds it (max_median)" in output
    assert _lines(output, r"^SKIPPED.*no GPU can be used: 1 of 2 GPUs: there are no more")
    assert "test_it.py::test_within: VRAM 1.00 GiB of 2.00 GiB" in output
    assert _lines(output, r"^test_it.py::test_latency: VRAM 1.00 GiB; median .* 5 runs$")
    assert "test_it.py::test_cpu" not in output.split("GPU tests")[1]


GREEN = """
@pytest.mark.gpu
def test_gpu(): pass
def test_cpu(): pass
"""
SKIPS = """
@pytest.mark.gpu
def test_gpu(): pytest.skip("no CUDA here")
def test_cpu(): pass
"""


XFAILED = """
@pytest.mark.gpu
@pytest.mark.xfail
def test_expected(): assert 0
"""
WANTING = """
@pytest.mark.gpu
@pytest.mark.skipif(True, reason="CUDA not available")
def test_wants(): pass
"""
TWO = """
@pytest.mark.gpu(count=2)
def test_two(): pass
"""


@pytest.mark.parametrize(
    "reason,wants",
    [
        ("no CUDA", True),
        ("CUDA not available", True),
        ("requires a GPU", True),
        ("GPU required", True),
        ("condition: not torch.cuda.is_available()", True),
        ("needs two GPUs", False),
        ("requires CUDA 12.4", False),
        ("no GPU with tensor cores", False),
        ("no GPU can be used: 1 of 2 GPUs: there are no more", False),
    ],
)
def test_the_reason_of_a_skip_tells_what_it_wants(reason: str, wants: bool) -> None:
    """A GPU that the test does not see at all is one thing, a better one another."""
    place = ("test_it.py", 1, f"Skipped: {reason}")
    report = pytest.TestReport("test_it.py::a", place, {}, "skipped", place, "setup")
    assert bool(pytest_plugin._want(report)) is wants


@pytest.mark.exhaustive
def test_a_conftest_may_mark_and_may_not_take_the_verdict_away(project: Project) -> None:
    """Marks that come late count, and exit status 5 that is made 0 is 1 in the end."""
    conftest = project.root / "conftest.py"
    late = """
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker("gpu")
"""
    before = conftest.read_text()
    conftest.write_text(before + late)
    assert project.run("def test_late(): pass", "--require-gpu")[0] == 0
    (project.root / "dev" / "nvidia0").unlink()
    assert "1 skipped" in project.run("def test_late(): pass")[1]
    (project.root / "dev" / "nvidia0").touch()
    hides = "\ndef pytest_sessionfinish(session, exitstatus):\n    session.exitstatus = 0\n"
    conftest.write_text(before + hides)
    assert project.run("", "--require-gpu")[0] == 1
    module = "pytest.skip('CUDA is not available', allow_module_level=True)"
    (project.root / "test_other.py").write_text("import pytest\n" + GREEN)
    status, output = project.run(module, "--require-gpu")
    assert (status, "test_it.py skipped itself for want of a GPU" in output) == (1, True), output


def test_without_a_gpu_tests_are_skipped_and_where_it_is_required_the_run_fails(project: Project) -> None:
    """The device that NVML lists may be opened by others only."""
    (project.root / "dev" / "nvidia0").unlink()
    status, output = project.run(GREEN)
    assert status == 0, output
    assert _lines(output, r"^SKIPPED.*no GPU can be used: none of 1 GPUs .*nvidia0 cannot be opened")
    status, output = project.run(GREEN, "--require-gpu")
    assert status == pytest.ExitCode.USAGE_ERROR, output
    assert len(_lines(output, "--require-gpu: no GPU can be used: none of 1 GPUs")) == 1, output


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "scenario,environ,words",
    [
        ("fault nvmlInitWithFlags return 9\n", {}, "nvmlInit: the driver is not loaded"),
        ("fault nvmlInitWithFlags hang\n", {}, "NVML did not answer within 2 s: nvmlInit"),
        ("fault nvmlDeviceGetUUID abort\n", {}, "NVML ended the process that asked it: nvmlDeviceGetUUID"),
        ("fault nvmlDeviceGetHandleByIndex_v2 return 15\n", {}, "the GPU is lost"),
        ("count 0\n", {}, "NVML lists no GPU"),
        ("", {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES='' leaves none"),
        ("", {"NVIDIA_VISIBLE_DEVICES": "GPU-another"}, "NVIDIA_VISIBLE_DEVICES='GPU-another' leaves none"),
    ],
)
def test_a_dead_driver_fails_the_run(
    project: Project, scenario: str, environ: dict[str, str], words: str
) -> None:
    """One line that says what is wrong."""
    options = ("-o", "gpu_deadline_seconds=2", "--require-gpu")
    status, output = project.run(GREEN, *options, scenario=scenario, **environ)
    assert status == pytest.ExitCode.USAGE_ERROR, output
    assert len(_lines(output, "^ERROR: --require-gpu: no GPU can be used: ")) == 1, output
    assert words in output
    assert "test_cpu" not in output


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "tests,options,status,words",
    [
        (GREEN, ["-n2"], 0, "test_it.py::test_gpu: VRAM 1.00 GiB"),
        (GREEN, ["-m", "not gpu"], 1, "ERROR: --require-gpu: no test marked gpu ran: none was selected"),
        (SKIPS, ["-x"], 1, "ERROR: --require-gpu: no test marked gpu ran: all 1 were skipped"),
        (SKIPS, ["-n1"], 1, "ERROR: --require-gpu: no test marked gpu ran: all 1 were skipped"),
        ("def test_cpu(): pass", [], 1, "none was selected"),
        ("", [], 1, "none was selected"),
        (GREEN, ["--collect-only"], 0, "test_it.py::test_gpu"),
        ("@pytest.mark.gpu(vram='2 lb')\ndef test_gpu(): pass", [], 4, "'2 lb' is no amount of memory"),
        ("@pytest.mark.gpu(count=0)\ndef test_gpu(): pass", ["-n1"], 1, "0 is no number of GPUs"),
        ("@pytest.mark.gpu(mem='2GiB')\ndef test_gpu(): pass", [], 4, "the mark gpu takes count, max_median"),
        (XFAILED, [], 1, "no test marked gpu ran: all 1 were skipped or expected to fail"),
        (GREEN + XFAILED, [], 0, "1 xfailed"),
        (
            GREEN + WANTING,
            [],
            1,
            "::test_wants skipped itself for want of a GPU: CUDA not available",
        ),
        (GREEN + WANTING, ["-n1"], 1, "skipped itself for want of a GPU"),
        (GREEN + TWO, [], 0, "1 skipped"),
        (GREEN, ["-p", "no:runnerctl-gpu"], 4, "switches off what would judge the run"),
    ],
)
def test_a_run_that_requires_a_gpu(
    project: Project, tests: str, options: list[str], status: int, words: str
) -> None:
    """Green when a GPU test ran, and only then; looking at what there is runs nothing."""
    found, output = project.run(tests, "--require-gpu", *options)
    assert found == status, output
    assert words in output


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "scenario,words",
    [
        ("fault nvmlDeviceGetComputeRunningProcesses_v3 return 3\n", "NVML error 3"),
        (
            f"gpu.0.compute_processes PYTEST:{2**64 - 1}\ngpu.0.memory_used {GIB}\n",
            "does not say how much memory",
        ),
        ("fault nvmlDeviceGetComputeRunningProcesses_v3 hang\n", "did not answer within"),
        (f"gpu.0.compute_processes 4194000:{GIB}\n", "lists processes that are gone"),
    ],
)
def test_what_cannot_be_told_is_not_within_a_budget(project: Project, scenario: str, words: str) -> None:
    """A peak that nobody knows fails the test that bounds it, and no other."""
    tests = "@pytest.mark.gpu(vram='1MiB')\ndef test_gpu(): pass\n@pytest.mark.gpu\ndef test_free(): pass"
    status, output = project.run(tests, "-o", "gpu_deadline_seconds=3", scenario=scenario)
    assert status == 1, output
    assert _lines(output, "VRAM: the peak is not known, so not within 1.00 MiB: .*")
    assert words in output
    assert "1 failed, 1 passed" in output


@pytest.mark.exhaustive
def test_nothing_of_it_is_loaded_before_a_test_is_marked(project: Project) -> None:
    """Whoever does not use it does not pay for it; the package is not the plugin's."""
    tests = "def test_it(): assert not [name for name in sys.modules if name.startswith('runnerctl.gpu')]"
    (project.root / "conftest.py").unlink()
    status, output = project.run(tests)
    assert status == 0, output
    loaded = "{'pytest', 'msgspec', 'pynvml'} & set(sys.modules)"
    code = f"import sys, runnerctl.gpu_watch as it; print(*({loaded}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "\n"
