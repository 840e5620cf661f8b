"""Processor sharing by hand: jobs, and when each is done."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.processors import Processors


def ends(cores, jobs, stops=()):
    """When each of the jobs (start, work) is done, None if it was stopped; `stops` are (time, job)."""
    engine = Engine()
    processors = Processors(engine, cores)
    done = [None] * len(jobs)
    stop = {}

    def start(i, work):
        stop[i] = processors.run(work, lambda: done.__setitem__(i, engine.now))

    for i, (begin, work) in enumerate(jobs):
        engine.after(begin, lambda i=i, work=work: start(i, work))
    for time, i in stops:
        engine.after(time, lambda i=i: stop[i]())
    engine.env.run()
    return done


def one(jobs):
    return 1.0


def two(jobs):
    return min(jobs, 2.0)


@pytest.mark.parametrize(
    ("cores", "jobs", "expected"),
    [
        (one, [(0.0, 3.0)], [3.0]),
        (one, [(0.0, 2.0), (0.0, 2.0)], [4.0, 4.0]),
        (one, [(0.0, 1.0), (0.0, 2.0)], [2.0, 3.0]),
        (one, [(0.0, 3.0), (1.0, 1.0)], [4.0, 3.0]),  # 1 s alone, 2 s halved, 1 s alone
        (one, [(0.0, 1.0), (5.0, 1.0)], [1.0, 6.0]),
        (two, [(0.0, 2.0)], [2.0]),
        (two, [(0.0, 2.0), (0.0, 2.0)], [2.0, 2.0]),
        (two, [(0.0, 2.0), (0.0, 2.0), (0.0, 2.0)], [3.0, 3.0, 3.0]),
        (two, [(0.0, 4.0), (0.0, 4.0), (0.0, 2.0)], [5.0, 5.0, 3.0]),
        (lambda jobs: 1.5 if jobs > 1 else 1.0, [(0.0, 3.0), (0.0, 3.0)], [4.0, 4.0]),
        (lambda jobs: 10.0, [(0.0, 3.0), (0.0, 3.0)], [3.0, 3.0]),  # nobody is faster than alone
        (one, [(0.0, 0.0), (0.0, 2.0)], [0.0, 2.0]),
    ],
)
def test_jobs_share_the_cores(cores, jobs, expected):
    assert ends(cores, jobs) == expected


def test_a_stopped_job_leaves_its_share_to_the_others():
    assert ends(one, [(0.0, 3.0), (0.0, 3.0)], stops=[(2.0, 1)]) == [4.0, None]


def test_stopping_what_is_done_changes_nothing():
    assert ends(one, [(0.0, 1.0), (2.0, 1.0)], stops=[(2.5, 0), (2.5, 0)]) == [1.0, 3.0]


def test_a_stopped_job_of_equal_work_is_the_right_one():
    assert ends(one, [(0.0, 3.0), (0.0, 3.0), (0.0, 3.0)], stops=[(3.0, 1)]) == [7.0, None, 7.0]


@pytest.mark.parametrize("late", [1e4, 1e6, 1e9])
def test_late_in_a_long_run_time_goes_on(late):
    first, second, third = ends(one, [(late, 1e-3), (late + 0.3, 0.1), (late + 0.3, 0.7)])
    assert (first, second, third) == pytest.approx((late + 1e-3, late + 0.5, late + 1.1), rel=1e-15)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(1e-3, 5.0)), min_size=1, max_size=8))
def test_one_core_is_busy_whenever_there_is_work(jobs):
    free = 0.0
    for begin, work in sorted(jobs):
        free = max(free, begin) + work
    done = ends(one, jobs)
    assert max(done) == pytest.approx(free, rel=1e-12)
    assert all(end >= begin + work - 1e-9 for end, (begin, work) in zip(done, jobs, strict=True))
