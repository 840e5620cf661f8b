"""The section `failure`: what it means, what is refused, what is said."""

from __future__ import annotations

from typing import Any

import pytest

from distsim.composition import compose
from distsim.configuration import resolve
from distsim.interface import Outage
from distsim.interface.failure import daly

TIME = "a time 0 or more with its unit, like 5us or 1.5s"
EVERY = "a number of updates like 20, a time with its unit like 30s, auto, or null"
MORE = "a time greater than 0 with its unit, like 5us or 1.5s"


def problems(*settings: tuple[str, Any]) -> list[str]:
    return [str(problem) for problem in resolve(compose(settings)[0])[1]]


def test_the_preset_of_llama_3_is_what_the_paper_counted() -> None:
    resolved, _ = resolve(compose([("failure", "llama3"), ("checkpoint", {"every": "auto", "cost": "30s"})])[0])
    assert resolved is not None
    hours = (resolved.failure.mtbf or 0.0) / 3600
    assert hours == pytest.approx(54 * 24 * 16384 / 419, rel=1e-5)
    assert 24 / hours == pytest.approx(4.74e-4, rel=1e-3)  # a GPU-day
    assert resolved.failure.checkpoint.seconds == daly(hours * 3600 / 4, 30.0)  # four ranks


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"failure.mtbf": -1}, f"failure.mtbf=-1: {MORE}"),
        ({"failure.mtbf": float("nan")}, f"failure.mtbf=nan: {MORE}"),
        ({"failure.mtbf": 0}, f"failure.mtbf=0: {MORE}"),
        (
            {"failure.mtbf": "200s"},
            "failure.mtbf=200.0: of 4 ranks one fails every 50 s, and a restart takes 60 s: no work would get done; "
            "more than 240 s, or a shorter failure.restart",
        ),
        ({"failure.restart": -1}, f"failure.restart=-1: {TIME}"),
        ({"failure.restart": "inf"}, f"failure.restart='inf': {TIME}"),
        ({"failure.ranks": {4: "1s"}}, "failure.ranks.4=[1.0]: there are ranks 0 to 3"),
        ({"failure.ranks": {"x": "1s"}}, "failure.ranks='x': a whole number 0 or more"),
        ({"failure.ranks": {1: "-1s"}}, f"failure.ranks.1='-1s': {TIME}"),
        ({"failure.ranks": 3}, "failure.ranks=3: a map from ranks to times, like {3: [10min, 2h]}"),
        ({"failure.ranks": {1: "5s", "01": "7s"}}, "failure.ranks.1='...': every rank once"),
        ({"failure.links": {"host1": [{"at": 1, "seconds": 1}]}},
         "failure.links.host1='...': cluster.network=loopback has no links; take cluster=switch"),
        ({"cluster": "switch", "failure.links": {"hots1": [{"at": 1, "seconds": 1}]}},
         "failure.links.hots1='...': the name of a cable (host0, host1, host2, ...) or of one of its ends; "
         "did you mean host1?"),
        ({"cluster": "switch", "failure.links": {"host1": [{"at": 1, "seconds": 1, "share": 1.5}]}},
         "failure.links.host1.share=1.5: a number 0 or more and less than 1"),
        ({"cluster": "switch", "failure.links": {"host1": {"at": 1}}},
         "failure.links.host1={'at': 1}: an outage needs seconds; like {at: 10s, seconds: 5s, share: 0}; "
         "mtbf in place of at: by rate"),
        ({"cluster": "switch", "failure.links": {"host1": {"seconds": 1}}},
         "failure.links.host1={'seconds': 1}: an outage needs at; like {at: 10s, seconds: 5s, share: 0}; "
         "mtbf in place of at: by rate"),
        ({"cluster": "switch", "failure.links": {"host1": {"at": 1, "mtbf": 5, "seconds": 1}}},
         "failure.links.host1={'at': 1, 'mtbf': 5, 'seconds': 1}: an outage has a time or a rate; leave out at or mtbf"),
        ({"cluster": "switch", "failure.links": {"host1": {"mtbf": "1us", "seconds": 1}}},
         "failure.links.host1.mtbf='1us': a time 0.0001 or more with its unit, like 5us or 1.5s"),
        ({"cluster": "node8", "backend": "real", "failure.links": {"host1": {"at": 1, "seconds": 1}}},
         "failure.links.host1='...': backend=real takes no link down; take backend=modeled or cosimulated"),
        ({"failure.on_loss": "continue", "failure.mtbf": "1h", "strategy": "gpipe"},
         "failure.on_loss='continue': strategy=gpipe can restart or abort; auto takes the first of them"),
        ({"checkpoint.every": "auto"},
         "checkpoint.every='auto': Daly's interval follows from failure.mtbf and checkpoint.cost: "
         "give both; or a time, like 10min"),
        ({"checkpoint.cost": 3}, "checkpoint.cost=3.0: nothing is saved: give checkpoint.every; "
         "for example checkpoint.every=100"),
        ({"checkpoint.keep": True}, "checkpoint.keep=True: nothing is saved: give checkpoint.every; "
         "for example checkpoint.every=100"),
        ({"checkpoint.keep": 1}, "checkpoint.keep=1: true or false"),
        ({"checkpoint.every": 0}, f"checkpoint.every=0: {EVERY}"),
        ({"checkpoint.every": "0s"}, f"checkpoint.every='0s': {EVERY}"),
        ({"checkpoint.every": 2.5}, f"checkpoint.every=2.5: {EVERY}"),
        ({"checkpoint.every": "5 sec"}, f"checkpoint.every='5 sec': {EVERY}"),
        ({"checkpoint.updates": 5}, "checkpoint.updates=5: no such key; did you mean budget.updates?"),
        ({"failure.checkpoint.updates": 5}, "failure.checkpoint.updates=5: no such key; did you mean checkpoint.every?"),
        ({"failure.checkpoint.cost": 5}, "failure.checkpoint.cost=5: no such key; did you mean checkpoint.cost?"),
        ({"strategy": "ad_psgd", "checkpoint.every": 9},
         "checkpoint.every=9: strategy=ad_psgd cannot go on from a checkpoint: it begins anew; leave it null"),
        ({"backend": "real", "failure": "one_loss", "failure.on_loss": "continue", "strategy": "zero"},
         "failure.on_loss='continue': strategy=zero can restart or abort; auto takes the first of them"),
        ({"backend": "real", "backend.on_worker_loss": "continue", "strategy": "sync_ps"},
         "backend.on_worker_loss='continue': strategy=sync_ps cannot work on without a worker; take stop or restart"),
    ],
)  # fmt: skip
def test_refused(settings: dict[str, Any], says: str) -> None:
    assert problems(*settings.items()) == [says]


def test_all_at_once() -> None:
    found = problems(("failure.mtbf", "nan"), ("failure.restart", -1), ("failure.ranks", {1: "x"}), ("failure.foo", 3))
    assert [text.partition("=")[0] for text in found] == [
        "failure.ranks.1",
        "failure.mtbf",
        "failure.restart",
        "failure.foo",
    ]


def test_warned() -> None:
    resolved, _ = resolve(compose([("failure.mtbf", "1h")])[0])
    assert resolved is not None
    assert resolved.warnings == (
        "failure.mtbf=3600 s without checkpoint.every: every restart begins with the first update",
    )


def test_links_fail_by_rate() -> None:
    values, _ = compose(
        [("cluster", "switch"), ("failure.links", {"all": [{"mtbf": "2min", "seconds": 3}, {"at": 1, "seconds": 2}]})]
    )
    resolved, _ = resolve(values)
    assert resolved is not None
    assert resolved.failure.links == {"all": (Outage(1.0, 2.0), Outage(None, 3.0, mtbf=120.0))}
    assert resolved.config["failure"]["links"] == {
        "all": [{"at": 1.0, "seconds": 2.0, "share": 0.0}, {"seconds": 3.0, "share": 0.0, "mtbf": 120.0}]
    }
    again, _ = resolve(resolved.config)
    assert again is not None
    assert again.config == resolved.config
