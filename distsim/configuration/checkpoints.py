"""The section `checkpoint`: when ranks save what they hold.

checkpoint.every=100        updates; or a time, 10min; or auto: Daly's interval, where ranks fail by rate; null: none
checkpoint.cost=30s         what each takes in a simulated run; a real one takes what it takes
checkpoint.keep=true        leaves those of a real run that has finished; else they are removed then
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

from distsim.configuration import quantities
from distsim.configuration.quantities import Kind, Refused
from distsim.configuration.reader import FAILED, Reader
from distsim.interface import Checkpoint, Failure, Strategy
from distsim.interface.failure import daly

_AUTO = inf
"""What `auto` is read as, until ranks are known."""
_COUNT, _LONG = quantities.integer(1), quantities.seconds(above=0.0)
_ALLOWED = "a number of updates like 20, a time with its unit like 30s, auto, or null"
KEYS = ("every", "cost", "keep")


def _every(value: Any) -> tuple[int | None, float | None]:
    """Updates, or seconds."""
    if value is None:
        return None, None
    if value == "auto":
        return None, _AUTO
    try:
        return (None, _LONG(value)) if _has_unit(value) else (_COUNT(value), None)
    except Refused as refused:
        raise Refused(_ALLOWED, refused.suggestion) from None


def _has_unit(value: Any) -> bool:
    return isinstance(value, str) and value.rstrip()[-1:].isalpha()


CHECKPOINT: Mapping[str, Kind] = {"every": _every, "cost": quantities.seconds(), "keep": quantities.boolean}


def read_checkpoint(reader: Reader) -> Checkpoint | None:
    """The section by itself; what `auto` means is for `check_checkpoint`."""
    values = reader.section("checkpoint")
    every = reader.value("checkpoint.every", _every, values.get("every"))
    cost = reader.value("checkpoint.cost", CHECKPOINT["cost"], values.get("cost", 0.0))
    keep = reader.value("checkpoint.keep", quantities.boolean, values.get("keep", False))
    good = reader.close("checkpoint", values, KEYS, KEYS)
    if every is FAILED or cost is FAILED or keep is FAILED or not good:
        return None
    updates, seconds = every
    checkpoint = Checkpoint(updates, seconds, cost, keep)
    for key, value in (("cost", cost), ("keep", keep)):
        if checkpoint.is_off and value:
            allowed = "nothing is saved: give checkpoint.every"
            reader.refuse(f"checkpoint.{key}", value, allowed, "for example checkpoint.every=100")
            return None
    return checkpoint


def check_checkpoint(
    reader: Reader, checkpoint: Checkpoint, failure: Failure, strategy: Strategy, ranks: int
) -> Checkpoint:
    """Refuse what this strategy cannot do; the same with its `auto` interval worked out."""
    if not checkpoint.is_off and not any(strategy.can_resume(update) for update in range(1, 100_000)):
        allowed = f"strategy={reader.section('strategy').get('name')} cannot go on from a checkpoint: it begins anew"
        reader.refuse("checkpoint.every", reader.section("checkpoint").get("every"), allowed, "leave it null")
    if checkpoint.seconds != _AUTO:
        return checkpoint
    if failure.mtbf is None or not checkpoint.cost:
        allowed = "Daly's interval follows from failure.mtbf and checkpoint.cost: give both"
        reader.refuse("checkpoint.every", "auto", allowed, "or a time, like 10min")
        return checkpoint
    return replace(checkpoint, seconds=daly(failure.mtbf / ranks, checkpoint.cost))


def spelled_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """The keys as a configuration writes them."""
    every = checkpoint.updates if checkpoint.seconds is None else f"{checkpoint.seconds!r}s"
    return {"every": every, "cost": checkpoint.cost, "keep": checkpoint.keep}
