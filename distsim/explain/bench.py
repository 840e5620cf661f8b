"""The model, the device and the network of a lesson: costs that a reader can add up.

Eight equal blocks. On one worker's batch each takes 1 s forward and 2 s backward, one for the gradient of its input and one
for that of its weights; so a pipeline of 4 stages that cuts a step into 8 micro-batches has F = I = W = 1 s a stage. The
whole model, or its gradient, crosses a link in 2 s; updating all of it takes 1 s, and so does a mean of 4 gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

from distsim.interface import Block, Cluster, Cost, Model, Strategy, Switch

WORKERS = 4
BLOCKS = 8
BATCH = 8
SCALARS = 64
"""Parameters of a block."""
ITEMSIZE = 4
MODEL_BYTES = BLOCKS * SCALARS * ITEMSIZE
SWITCH = Switch(bandwidth=MODEL_BYTES / 2.0, latency=0.0)
AVERAGING = 4.0 * MODEL_BYTES
"""Bytes a second that payload arithmetic takes in."""


@dataclass(frozen=True)
class Bench:
    """The device of a lesson: seconds are the FLOPs of blocks, which are chosen so, and nothing else costs any."""

    def seconds(self, model: Model, cost: Cost) -> float:
        """Seconds of an operation."""
        blocks, total = model.sharded(cost.shards).blocks, cost.nbytes / AVERAGING
        for operation, index in cost.parts:
            block = blocks[index]
            if operation == "apply":
                total += cost.share * block.parameters / (BLOCKS * SCALARS)
            elif operation == "forward":
                total += cost.samples * block.flops
            elif operation != "loss":
                total += cost.samples * (block.input_flops if operation != "backward_weights" else 0.0)
                total += cost.samples * (block.weight_flops if operation != "backward_input" else 0.0)
        return total


def model() -> Model:
    """Eight equal blocks."""
    second = 1.0 / BATCH
    blocks = [
        Block(
            index=index,
            kind="equal",
            parameters=SCALARS,
            activation=16,
            saved=16,
            flops=second,
            input_flops=second,
            weight_flops=second,
            ways=8,
            shapes=((8, 8),),
        )
        for index in range(BLOCKS)
    ]
    return Model(tuple(blocks), BATCH, 16, ITEMSIZE)


def cluster(strategy: Strategy, workers: int) -> Cluster:
    """The cluster that a strategy needs for so many workers."""
    return Cluster(workers, strategy.server_count(workers), Bench(), SWITCH, beside=strategy.servers_beside())


def assumptions(strategy: Strategy, workers: int) -> str:
    """What was assumed, in one sentence."""
    servers = strategy.server_count(workers)
    ranks = f"{workers} workers" + (f" and {servers} server{'s' if servers > 1 else ''}" if servers else "")
    where = "a server beside a worker" if servers and strategy.servers_beside() else "a host each"
    hop = 16 * ITEMSIZE * BATCH / SWITCH.bandwidth
    return (
        f"{ranks}, {where}; {BLOCKS} equal blocks, each 1 s forward and 2 s backward (input 1 s, weights 1 s) on a batch "
        f"of one worker; a link passes the whole model or gradient in {MODEL_BYTES / SWITCH.bandwidth:g} s and such a "
        f"batch's activations in {hop:g} s; updating the model takes 1 s, a mean of gradients 0.25 s each"
    )
