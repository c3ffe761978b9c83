"""How long a call takes, GPU work included: median and spread of many runs, judged against a budget."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from runnerctl.gpu_units import said_seconds, seconds_of

__all__ = ["BUDGETS", "Latency", "budgets", "measure", "synchronize_found"]

BUDGETS = ("max_median", "max_p95", "max_spread")


class Latency(NamedTuple):
    """Seconds. ``spread``: median absolute deviation; ``iqr``: between the quartiles; ``p95``: one of 20 took
    longer.
    """

    median: float
    spread: float
    iqr: float
    p95: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: list[float]) -> Latency:
        """The figures of at least one sample."""
        median = statistics.median(samples)
        spread = statistics.median(abs(each - median) for each in samples)
        iqr = p95 = 0.0
        if len(samples) > 1:
            low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
            iqr = high - low
            p95 = statistics.quantiles(samples, n=20, method="inclusive")[-1]
        return cls(median, spread, iqr, p95 or median, tuple(samples))

    def over(self, limits: Mapping[str, float]) -> str:
        """Which budgets it is over, empty when none."""
        found = {"max_median": self.median, "max_p95": self.p95, "max_spread": self.spread}
        return "; ".join(
            f"{name.removeprefix('max_')} {said_seconds(found[name])} is over {said_seconds(limit)}"
            for name, limit in limits.items()
            if found[name] > limit
        )

    def __str__(self) -> str:
        median, spread, p95 = map(said_seconds, (self.median, self.spread, self.p95))
        return f"median {median} ± {spread}, p95 {p95}, {len(self.samples)} runs"


def budgets(given: Mapping[str, object]) -> dict[str, float]:
    """Seconds of each budget that is given. Raises ValueError."""
    return {name: seconds_of(given[name]) for name in BUDGETS if given.get(name) is not None}


def measure(
    call: Callable[[], object],
    *,
    warmup: int = 3,
    repeats: int = 30,
    synchronize: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Run ``call`` and time it; the first ``warmup`` runs do not count.

    ``synchronize`` waits until the GPU has done what it was given: work is only queued when a call returns.
    Python's garbage collector rests meanwhile. Raises ValueError for less than one run.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError("a latency needs at least one run, and no less than no warm-up")
    wait = synchronize or (lambda: None)
    for _ in range(warmup):
        call()
    collecting = gc.isenabled()
    gc.disable()
    samples = []
    try:
        for _ in range(repeats):
            wait()
            begin = clock()
            call()
            wait()
            samples.append(clock() - begin)
    finally:
        if collecting:
            gc.enable()
    return Latency.of(samples)


def synchronize_found(modules: Mapping[str, Any] | None = None) -> Callable[[], object] | None:
    """The function that waits for the GPU, of the library that is loaded; None when there is none."""
    loaded = sys.modules if modules is None else modules
    torch = loaded.get("torch")
    if torch is not None and torch.cuda.is_available():
        wait: Callable[[], object] = torch.cuda.synchronize
        return wait
    cupy = loaded.get("cupy")
    if cupy is not None:
        return lambda: cupy.cuda.get_current_stream().synchronize()
    return None
