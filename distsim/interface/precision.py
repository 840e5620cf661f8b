"""In which precision blocks compute: as torch.amp does it, with parameters, optimizer and payloads in float32.

A block runs under autocast, which takes the lower type where that is safe; what goes from block to block and from rank to
rank is float32, so sizes are those of float32.

fp16 overflows and underflows, so the loss is scaled up before the backward pass, and gradients down again, in float32, as
they accumulate: who sees a gradient sees its true value, or inf or nan where it overflowed. Whether an update is skipped is
decided by the whole gradient that is to be applied, before any of it is. Ranks that update alike have reduced alike, and
inf and nan outlast every sum: so all of them decide alike. A server decides by the gradients that it was sent. A rank's
scale follows what it applies; that of a rank which never applies (a server's worker) follows its own gradients. A skipped
update counts as one, of the budget and of the schedule. A loss that is not finite ends the run, as ever.

Who updates a part of the model by itself (stages, shards) or gets gradients in codes could not decide so: see
`Strategy.updates_whole`.

Modeled memory is that of float32: what autocast keeps (halves of activations, copies of weights) is counted where tensors
are, and no formula of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

PrecisionName = Literal["float32", "bf16", "fp16"]
NAMES: tuple[str, ...] = get_args(PrecisionName)


@dataclass(frozen=True)
class Precision:
    """A precision; the defaults of the loss scale are those of torch.amp.GradScaler."""

    name: PrecisionName = "float32"
    first_scale: float = 65536.0
    """The loss is multiplied by this at first."""
    growth: float = 2.0
    """By how much the scale grows after `growth_updates` updates in a row."""
    backoff: float = 0.5
    """What a skipped update multiplies it by."""
    growth_updates: int = 2000

    @property
    def is_scaled(self) -> bool:
        """Whether losses are scaled and updates may be skipped."""
        return self.name == "fp16"


FLOAT32 = Precision()
PARTS = (
    "with precision=fp16 an update needs the whole gradient in one place, to be skipped as a whole where that overflowed: "
    "take bf16"
)
"""Why fp16 is refused where parts of the model are updated apart from each other."""
CHANGED = "with precision=fp16 a gradient given to apply must not be changed until those of all blocks were given"
"""What a strategy that uses a gradient's memory again has done wrong."""
