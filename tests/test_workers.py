"""Parallel maps: results in order, and no more work ahead of the consumer than the memory is meant for."""

import threading

import pytest

from aujax.data import workers
from aujax.data.workers import parallel_map


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_are_in_the_order_of_the_items(jobs):
    assert list(parallel_map(lambda n: n * n, range(50), jobs=jobs, description="")) == [n * n for n in range(50)]


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_slow_consumer_is_not_run_ahead_of(jobs):
    requested = []
    items = (requested.append(n) or n for n in range(1000))
    results = parallel_map(lambda n: n, items, jobs=jobs, description="")
    for taken in range(1, 20):
        next(results)
        assert len(requested) <= taken + workers._AHEAD * jobs
    results.close()


def test_an_error_reaches_the_consumer_after_the_results_before_it():
    results = parallel_map(lambda n: 1 // (3 - n), range(9), jobs=2, description="")
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_threads_share_the_memory_of_the_caller():
    names = set(parallel_map(lambda _: threading.current_thread().name, range(20), jobs=2, description=""))
    assert threading.current_thread().name not in names
