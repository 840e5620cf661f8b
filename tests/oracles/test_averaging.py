"""What averaging does to weights on a quadratic, against minibatch SGD and against the mixing matrix's eigenvalues."""

import math

import pytest

from distsim.interface import Batch, Budget, Cluster, Job, Straggler, Strategy
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.diloco import DiLoCo, StreamingDiLoCo
from distsim.strategies.gossip import Gossip, neighbours
from distsim.strategies.local_sgd import LocalSGD

from .jobs import IDEAL, Times, done
from .quadratic import MODEL, Loss, Quadratic, path

EXPONENTIAL = Straggler("exponential")


def minibatch(loss: Loss, workers: int, updates: int) -> list[float]:
    """x of minibatch SGD, from the recursion: noise is additive, so the gradient at the mean is the mean gradient."""
    x = [loss.start]
    for t in range(updates):
        noise = sum(loss.noise(Batch(t, w, workers)) for w in range(workers)) / workers
        x.append(x[-1] - loss.rate * (loss.curvature * x[-1] + noise))
    return x


@pytest.mark.parametrize("every", [1, 4, 15])
@pytest.mark.parametrize("workers", [2, 5, 8])
def test_local_sgd_on_a_quadratic_is_minibatch_sgd_path_by_path(every: int, workers: int) -> None:
    loss = Loss(curvature=0.5, rate=0.2, sigma=1.0)
    local, expected = path(LocalSGD(every), workers, 60, loss, EXPONENTIAL), minibatch(loss, workers, 60)
    # Each step rounds by some 1e-16 and the path forgets a tenth a step.
    assert local[::every] == pytest.approx(expected[::every], abs=1e-14, rel=0)
    between = [abs(a - b) for t, (a, b) in enumerate(zip(local, expected, strict=True)) if t % every]
    assert not between or min(between) > 1e-6  # the copies are apart in between


def test_post_local_sgd_is_minibatch_sgd_until_it_is_local() -> None:
    loss = Loss(sigma=1.0)
    local, expected = path(LocalSGD(10, after=25), 3, 50, loss), minibatch(loss, 3, 50)
    together = [*range(26), 35, 45]
    assert [local[t] for t in together] == pytest.approx([expected[t] for t in together], abs=1e-14, rel=0)
    assert min(abs(local[t] - expected[t]) for t in range(51) if t not in together) > 1e-6


@pytest.mark.parametrize(
    "strategy", [LocalSGD(3), DiLoCo(4, 1.0, 0.0), StreamingDiLoCo(4, 1.0, 0.0, fragments=1, delay=0), Gossip()]
)
def test_without_noise_all_copies_walk_as_one(strategy: Strategy) -> None:
    loss = Loss(rate=0.125, curvature=2.0)
    assert ends(strategy, [1.0] * 5, 24, loss) == pytest.approx([0.75**24] * 5, rel=1e-12)


# ---- gossip


def ends(strategy: Strategy, starts: list[float], updates: int, loss: Loss) -> list[float]:
    """Where ranks end that start at `starts`."""
    made = [Quadratic(Loss(loss.curvature, loss.rate, loss.sigma, start, loss.seed)) for start in starts]
    cluster = Cluster(len(starts), 0, Times(forward=1.0), IDEAL)
    done(Job(strategy, MODEL, cluster, Budget(updates=updates), made.__getitem__, EXPONENTIAL, loss.seed))
    return [each.path[-1] for each in made]


RINGS = [(2, 0.0), (3, 0.0), (4, 1 / 3), (5, 0.5393446629166316), (8, 0.80474), (16, 0.94925)]


@pytest.mark.parametrize(("workers", "second"), RINGS)
def test_a_ring_contracts_by_its_second_eigenvalue(workers: int, second: float) -> None:
    exact = 0.0 if workers == 2 else 1 / 3 + 2 / 3 * math.cos(2 * math.pi / workers)  # two have one neighbour each
    assert exact == pytest.approx(second, abs=5e-6)
    wave = [math.cos(2 * math.pi * rank / workers) for rank in range(workers)]  # its eigenvector
    for updates in (1, 7):
        after = ends(Gossip(), wave, updates, Loss(rate=0.0))
        assert after == pytest.approx([exact**updates * x for x in wave], abs=1e-14)


HOPS = [
    ("exponential", 8, [1, 7, 2, 6, 4]),
    ("exponential", 7, [1, 6, 2, 5]),
    ("exponential", 6, [1, 5, 2, 4]),
    ("complete", 5, [1, 2, 3, 4]),
    ("ring", 9, [1, 8]),
]


@pytest.mark.parametrize(("topology", "workers", "hops"), HOPS)
def test_every_wave_contracts_by_its_eigenvalue(topology: str, workers: int, hops: list[int]) -> None:
    for frequency in range(workers):
        angle = 2 * math.pi * frequency / workers
        value = (1 + sum(math.cos(angle * hop) for hop in hops)) / (1 + len(hops))  # of a circulant matrix
        wave = [math.cos(angle * rank + 0.4) for rank in range(workers)]
        after = ends(Gossip(topology), wave, 3, Loss(rate=0.0))
        assert after == pytest.approx([value**3 * x for x in wave], abs=1e-14)


@pytest.mark.parametrize("topology", ["ring", "exponential", "complete"])
@pytest.mark.parametrize("workers", [2, 3, 5, 8, 13])
def test_neighbours_are_mutual_and_equally_many(topology: str, workers: int) -> None:
    found = [neighbours(topology, rank, workers) for rank in range(workers)]
    assert all(rank in found[peer] for rank in range(workers) for peer in found[rank])
    assert len({len(peers) for peers in found}) == 1
    assert not any(rank in found[rank] for rank in range(workers))


@pytest.mark.parametrize("topology", ["ring", "complete"])
def test_the_mean_of_gossiping_workers_is_minibatch_sgd_on_a_quadratic(topology: str) -> None:
    loss = Loss(curvature=0.5, rate=0.2, sigma=1.0)
    for updates in (1, 20):
        mean = sum(ends(Gossip(topology), [1.0] * 6, updates, loss)) / 6
        assert mean == pytest.approx(minibatch(loss, 6, updates)[-1], abs=1e-14, rel=0)


def test_a_quadratic_is_the_same_for_all_reduce() -> None:  # so the recursion above is minibatch SGD
    loss = Loss(curvature=0.5, rate=0.2, sigma=1.0)
    assert path(AllReduce(), 4, 30, loss) == pytest.approx(minibatch(loss, 4, 30), abs=1e-14, rel=0)
