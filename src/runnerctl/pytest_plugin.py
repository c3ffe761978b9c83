"""The pytest plugin: GPU tests that can neither be green for want of a GPU nor outgrow their budgets unseen.

Registered as ``runnerctl`` (entry point ``pytest11``); nothing but pytest is imported until a test is marked
``gpu``, and the package does not need pytest. A marked test is skipped where no GPU can be used, and
``--require-gpu`` turns exactly that into a failure of the run:

    @pytest.mark.gpu(vram="2GiB", max_median="5ms")
    def test_inference(gpu_latency):
        gpu_latency(lambda: model(batch))

``vram`` bounds what the test's process and everything it starts hold on all GPUs together, as NVML tells it
every 20 ms from set-up to the end of the test: CUDA's own context counts, and what is held for a shorter
time than that may be missed. What cannot be told is never within a budget.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from runnerctl.gpu_child import Peak
    from runnerctl.gpu_latency import Latency
    from runnerctl.gpu_watch import Watch

__all__ = ["GpuLatency", "GpuPlugin"]

_MARK = (
    "gpu(vram=None, count=1, max_median=None, max_p95=None, max_spread=None): needs a CUDA GPU; without"
    " one it is skipped, and with --require-gpu the run fails; vram='2GiB' and max_median='5ms' are budgets"
)
_KNOWN = {"vram", "count", "max_median", "max_p95", "max_spread"}
_OURS = "no GPU can be used: "
# What tests say when they skip themselves because they see no GPU at all; not "needs two GPUs".
_NO_GPU = re.compile(
    r"\b(no|without|missing|lacks?)( (a|an|any|available|usable|working|nvidia))* (cuda|gpus?)\b(?! with)"
    r"|\b(cuda|gpus?)( (device|support|driver|runtime)s?)?( (is|are|was))?"
    r"(( not|n't) (available|found|present|usable|detected)| unavailable| missing| required$)"
    r"|\b(needs?|requires?)( (a|an|any))?( (available|nvidia|cuda))? (cuda|gpu)( device)?\.?$"
    r"|cuda\.is_available\(\)",
    re.IGNORECASE,
)
_VARIABLE = "RUNNERCTL_GPU_TEST"  # of runnerctl.gpu_tree
_ATTRIBUTE = "runnerctl_gpu"  # of a report; pytest-xdist carries a report's attributes over


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--require-gpu``."""
    group = parser.getgroup("runnerctl")
    group.addoption(
        "--require-gpu",
        action="store_true",
        help="fail when no GPU can be used, or when no test marked gpu ran, instead of skipping them",
    )
    parser.addini("gpu_deadline_seconds", "how long NVML may take to show the GPUs", default="40")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and what acts on it."""
    config.addinivalue_line("markers", _MARK)
    config.stash[_PLUGIN] = GpuPlugin(config)
    registered = config.pluginmanager.register(config.stash[_PLUGIN], "runnerctl-gpu")
    if registered is None and config.getoption("require_gpu"):
        raise pytest.UsageError("--require-gpu: -p no:runnerctl-gpu switches off what would judge the run")


class GpuLatency:
    """What the fixture ``gpu_latency`` gives: call it with what is to be timed."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        """``limits``: seconds, of the test's mark."""
        self._limits = limits
        self.measured: list[Latency] = []

    def __call__(
        self,
        call: Callable[[], object],
        *,
        warmup: int = 3,
        repeats: int = 30,
        synchronize: Callable[[], object] | None = None,
        max_median: str | float | None = None,
        max_p95: str | float | None = None,
        max_spread: str | float | None = None,
    ) -> Latency:
        """Time ``call``; fails the test when it is over a budget, the mark's or the ones given here.

        ``synchronize`` waits for the GPU; default: torch's or cupy's when one is loaded. Times are like
        ``"5ms"`` or seconds. Raises ValueError for others.
        """
        from runnerctl import gpu_latency

        given = {"max_median": max_median, "max_p95": max_p95, "max_spread": max_spread}
        limits = {**self._limits, **gpu_latency.budgets(given)}
        wait = synchronize or gpu_latency.synchronize_found()
        found = gpu_latency.measure(call, warmup=warmup, repeats=repeats, synchronize=wait)
        self.measured.append(found)
        over = found.over(limits)
        if over:
            pytest.fail(f"latency: {over} ({found})", pytrace=False)
        return found


@pytest.fixture
def gpu_latency(request: pytest.FixtureRequest) -> GpuLatency:
    """Times a call, with warm-up and synchronisation: median, spread and p95, judged against budgets."""
    return request.config.stash[_PLUGIN].latency_of(request.node)


class _Wish:
    """What a test's mark asks for."""

    def __init__(self, mark: pytest.Mark) -> None:
        """Raises ValueError."""
        from runnerctl.gpu_latency import budgets
        from runnerctl.gpu_units import bytes_of

        unknown = sorted(set(mark.kwargs) - _KNOWN)
        if mark.args or unknown:
            what = ", ".join(unknown) or "a value without a name"
            raise ValueError(f"the mark gpu takes {', '.join(sorted(_KNOWN))}, not {what}")
        vram, count = mark.kwargs.get("vram"), mark.kwargs.get("count", 1)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{count!r} is no number of GPUs")
        self.vram = None if vram is None else bytes_of(vram)
        self.count = count
        self.limits = budgets(mark.kwargs)


class GpuPlugin:
    """One test process' part, and in the main process the verdict on the run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._required = bool(config.getoption("require_gpu"))
        self._main = not hasattr(config, "workerinput")
        self._watch: Watch | None = None
        self._seen: dict[str, dict[str, Any]] = {}
        self._verdict, self._ended = "", False

    # ---- where tests run

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """A mark that cannot be read is an error before anything runs, in a worker one of the test."""
        mark = item.get_closest_marker("gpu")
        if mark is None or _WISH in item.stash:
            return
        try:
            item.stash[_WISH] = _Wish(mark)
        except ValueError as error:
            if self._main:
                leave = "-p no:runnerctl leaves this plugin out, for a marker of your own"
                raise pytest.UsageError(f"{item.nodeid}: {error} ({leave})") from None
            item.stash[_BAD] = str(error)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Marks that a conftest puts on whole folders come when everything is collected."""
        for item in session.items:
            self.pytest_itemcollected(item)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip or refuse without a GPU; else begin to look at its memory."""
        if _BAD in item.stash:
            pytest.fail(item.stash[_BAD], pytrace=False)
        wish = item.stash.get(_WISH, None)
        if wish is None:
            return
        sight = self._watching().sight()
        if len(sight.usable) < wish.count:
            less = f"{len(sight.usable)} of {wish.count} GPUs: " if sight.usable else ""
            reason = f"{_OURS}{less}{sight.reason or 'there are no more'}"
            if self._required and not sight.usable:
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
        _give_back_cached(sys.modules)
        os.environ[_VARIABLE] = token = f"{os.getpid()}.{len(self._seen)}.{item.nodeid}"
        item.stash[_TOKEN] = token
        self._watching().begin(token)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """After the test itself: what it held, against its budget."""
        wish = item.stash.get(_WISH, None)
        if wish is None:
            return (yield)
        result = None
        try:
            result = yield
        finally:
            item.stash[_PEAK] = self._end(item)
        self._judge(item, wish, item.stash[_PEAK])
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """The report carries what was measured, also from a worker of pytest-xdist."""
        report = yield
        if _WISH in item.stash:
            setattr(report, _ATTRIBUTE, self._told(item) | {"want": _want(report)})
            if report.when == "teardown":
                self._end(item)
        return report

    def latency_of(self, item: pytest.Item) -> GpuLatency:
        """The fixture's value for a test."""
        wish = item.stash.get(_WISH, None)
        item.stash[_LATENCY] = GpuLatency(wish.limits if wish else {})
        return item.stash[_LATENCY]

    def _watching(self) -> Watch:
        if self._watch is None:
            from runnerctl.gpu_watch import Watch

            deadline = float(self._config.getini("gpu_deadline_seconds"))
            self._watch = Watch(os.environ, deadline_seconds=deadline)
        return self._watch

    def _end(self, item: pytest.Item) -> Peak | None:
        token = item.stash.get(_TOKEN, "")
        if not token or self._watch is None:
            return None
        item.stash[_TOKEN] = ""
        os.environ.pop(_VARIABLE, None)
        return self._watch.end(token)

    @staticmethod
    def _judge(item: pytest.Item, wish: _Wish, peak: Peak | None) -> None:
        fault = _over(wish.vram, peak) if wish.vram is not None else ""
        latency = item.stash.get(_LATENCY, None)
        if wish.limits and not (latency and latency.measured):
            fault = fault or f"no latency was measured, though the mark bounds it ({', '.join(wish.limits)})"
        if fault:
            pytest.fail(fault, pytrace=False)

    @staticmethod
    def _told(item: pytest.Item) -> dict[str, Any]:
        peak, latency = item.stash.get(_PEAK, None), item.stash.get(_LATENCY, None)
        wish = item.stash[_WISH]
        return {
            "peak": peak.exact if peak else None,
            "most": peak.most if peak else None,
            "doubt": peak.doubt if peak else "",
            "vram": wish.vram,
            "latency": [str(each) for each in latency.measured] if latency else [],
        }

    # ---- where the run is judged

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """With --require-gpu a machine without a GPU ends the run at once."""
        if not (self._required and self._main) or session.config.option.collectonly:
            return
        sight = self._watching().sight()
        if not sight.usable:
            self._ended = True
            raise pytest.UsageError(f"--require-gpu: no GPU can be used: {sight.reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what each GPU test came to."""
        told = getattr(report, _ATTRIBUTE, None)
        if told is None or not self._main:
            return
        kept = self._seen.setdefault(report.nodeid, {"ran": False})
        if report.when == "call":
            kept.update(told, outcome=report.outcome, ran=not report.skipped)
        elif report.failed:
            kept.update(told, outcome=f"{report.when} failed", ran=True)
        if told["want"]:
            kept["want"] = told["want"]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that skips itself for want of a GPU hides how many tests it has."""
        if report.skipped and (want := _want(report)):
            self._seen[report.nodeid] = {"ran": False, "want": want}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Judge the run; the child that asks NVML is not needed any more.

        Before all others, which show the verdict, and after them: a conftest may take exit status 5 for 0.
        """
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._required and self._main and not self._ended and not session.config.option.collectonly:
            self._verdict = self._fault()
        self._refuse(session)
        result = yield
        self._refuse(session)
        return result

    def _fault(self) -> str:
        """Why the tests are no proof of a GPU, empty when they are."""
        wanting = {nodeid: kept["want"] for nodeid, kept in self._seen.items() if kept.get("want")}
        if not any(kept["ran"] for kept in self._seen.values()):
            why = (
                f"all {len(self._seen)} were skipped or expected to fail"
                if self._seen
                else "none was selected"
            )
            return f"--require-gpu: no test marked gpu ran: {why}"
        if wanting:
            first, reason = next(iter(wanting.items()))
            more = f", and {len(wanting) - 1} more" if len(wanting) > 1 else ""
            return f"--require-gpu: {first}{more} skipped itself for want of a GPU: {reason}"
        return ""

    def _refuse(self, session: pytest.Session) -> None:
        if self._verdict and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """A line for each GPU test that ran, and the verdict when the run fails for want of them."""
        ran = {nodeid: kept for nodeid, kept in self._seen.items() if "peak" in kept and kept["ran"]}
        if ran:
            terminalreporter.section("GPU tests")
            for nodeid, kept in ran.items():
                terminalreporter.write_line(f"{nodeid}: {'; '.join([_memory(kept), *kept['latency']])}")
        if self._verdict:
            terminalreporter.write_line(f"ERROR: {self._verdict}", red=True)


_PLUGIN = pytest.StashKey[GpuPlugin]()
_WISH = pytest.StashKey[_Wish]()
_BAD = pytest.StashKey[str]()
_TOKEN = pytest.StashKey[str]()
_PEAK: pytest.StashKey[Any] = pytest.StashKey()
_LATENCY = pytest.StashKey[GpuLatency]()


def _want(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The reason of a test that skipped, or expected to fail, since it saw no CUDA: NVML may see one.

    A build of torch without CUDA in it is such a case: every test that asks it skips, on the best of GPUs.
    """
    if not report.skipped:
        return ""
    told = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    reason = str(getattr(report, "wasxfail", "") or told).removeprefix("Skipped: ").removeprefix("reason: ")
    return reason if not reason.startswith(_OURS) and _NO_GPU.search(reason) else ""


def _over(budget: int, peak: Peak | None) -> str:
    """Why a test is not known to be within its budget, empty when it is."""
    from runnerctl.gpu_units import said_bytes

    unknown = f"VRAM: the peak is not known, so not within {said_bytes(budget)}"
    if peak is None or peak.most is None:
        return f"{unknown}: {peak.doubt if peak else 'nothing was sampled'}"
    if peak.exact is not None and peak.exact > budget:
        return f"VRAM: the peak of {said_bytes(peak.exact)} is over the budget of {said_bytes(budget)}"
    if peak.most > budget:
        return f"{unknown}: {said_bytes(peak.most)} was in use, whose it was nobody knows: {peak.doubt}"
    return ""


def _memory(kept: Mapping[str, Any]) -> str:
    from runnerctl.gpu_units import said_bytes

    budget = f" of {said_bytes(kept['vram'])}" if kept["vram"] is not None else ""
    if kept["peak"] is not None:
        return f"VRAM {said_bytes(kept['peak'])}{budget}"
    if kept["most"] is not None:
        return f"VRAM at most {said_bytes(kept['most'])}{budget} ({kept['doubt']})"
    return f"VRAM not known ({kept['doubt']})"


def _give_back_cached(modules: Mapping[str, Any]) -> None:
    """What libraries keep of earlier tests' memory is not this test's."""
    torch, cupy = modules.get("torch"), modules.get("cupy")
    if torch is None and cupy is None:
        return
    gc.collect()
    with contextlib.suppress(Exception):  # a library that is half loaded, a device that is gone
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if cupy is not None:
            cupy.get_default_memory_pool().free_all_blocks()
