"""What experiments share: how a learning rate is chosen."""

from types import SimpleNamespace

from distsim.study import best_rates

TARGET = 0.15


def tuned(strategy, rate, curve, status="done"):
    points = [{"update": i, "samples": i, "seconds": s, "loss": loss} for i, (s, loss) in enumerate(curve)]
    config = {"strategy": {"name": strategy}, "optimizer": {"learning_rate": rate}}
    return SimpleNamespace(config=config, summary={"curve": points}, status=status)


def test_the_rate_that_is_at_the_target_first_is_chosen_by_its_median():
    good = TARGET
    runs = [
        tuned("a", 0.1, [(1.0, good)]),
        tuned("a", 0.1, [(5.0, good)]),  # median 3.0
        tuned("a", 0.2, [(2.0, good)]),
        tuned("a", 0.2, [(2.5, good)]),  # median 2.25: chosen
        tuned("a", 0.4, [(0.1, good)], status="diverged"),
        tuned("a", 0.4, [(0.1, good)], status="diverged"),
        tuned("b", 0.1, [(1.0, 3 * good)]),
        tuned("b", 0.2, [(1.0, 2 * good)]),  # nobody got there: the lowest loss
    ]
    assert best_rates(runs, TARGET) == {"a": 0.2, "b": 0.2}
