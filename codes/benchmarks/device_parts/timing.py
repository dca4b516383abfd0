"""Seconds of steps on a device, after what warms it up."""

import statistics
import time

from benchmarks import variants
from benchmarks.device import Setup


def time_steps(setup: Setup, variant, at_least: int = 10, seconds: float = 4.0) -> dict:
    """Median seconds of a variant's step after two to warm up, and what the first took, which may compile."""
    at_least, seconds = (1, 0.0) if setup.tiny else (at_least, seconds)
    variant.step()
    first = variant.seconds[0]
    variant.step()
    variant.seconds.clear()
    while len(variant.seconds) < at_least or sum(variant.seconds) < seconds:
        variant.step()
    return {
        "seconds": statistics.median(variant.seconds),
        "slowest_seconds": max(variant.seconds),
        "first_seconds": first,
        "steps": len(variant.seconds),
        "peak_gib": setup.peak_gib(),
    }


def seconds_of(setup: Setup, call) -> float:
    variants.synchronize(setup.torch_device)
    start = time.perf_counter()
    call()
    variants.synchronize(setup.torch_device)
    return time.perf_counter() - start


def warm_seconds_of(setup: Setup, call) -> float:
    """The median of nine times after three to warm up."""
    return statistics.median([seconds_of(setup, call) for _ in range(12)][3:])
