"""What strategies and backends agree on. Standard library only.

Rules, each stated again where its type lives:

1.  A strategy is the coroutine that every rank runs over its `Worker`.                               worker.py, strategy.py
2.  A Worker method is a plain `def` that starts its operation at once; `await` waits for it.         work.py
3.  Work started and never awaited is an error in every backend, with the operation and the line.     work.py, program.py
4.  Compute queues per rank, collectives per group, messages per (peer, tag), in call order.          fabric.py
5.  A transfer starts when both sides have posted it (rendez-vous).                                   fabric.py
6.  Payloads carry the same operators for tensors and byte counts; values are never branched on.      values.py
7.  The fabric never looks into a payload; the numerics never see a clock or a rank.                  fabric.py, numerics.py
8.  Evaluation is off the clock.                                                                      worker.py (publish)
9.  A gradient that travelled is applied or discarded, exactly once.                                  worker.py (apply)
"""

from distsim.interface.budget import Budget
from distsim.interface.cluster import (
    Cluster,
    Curve,
    Device,
    Loopback,
    Measured,
    Pattern,
    Roofline,
    Route,
    Switch,
    Topology,
    is_part,
)
from distsim.interface.codec import Codec, Half, PowerSGD, TopK
from distsim.interface.episodes import Episodes
from distsim.interface.errors import (
    BadInput,
    Deadlock,
    DistsimError,
    Diverged,
    Problem,
    RankFailed,
    StrategyError,
    TimedOut,
)
from distsim.interface.fabric import Collective, Envelope, Fabric, Handle
from distsim.interface.failure import JOINED, LOST, Checkpoint, Failure, OnLoss, Outage
from distsim.interface.imbalance import Experts, Lengths, Spread
from distsim.interface.job import Job, Start
from distsim.interface.memory import Memory
from distsim.interface.model import Block, Cost, Model
from distsim.interface.numerics import Numerics, Part
from distsim.interface.optimizer import SGD, AdamW, Optimizer, Scaling, Schedule
from distsim.interface.outcome import Interrupted, Losses, Outcome, Piece, Snapshot, interrupted
from distsim.interface.pace import Pace
from distsim.interface.precision import Precision
from distsim.interface.program import drive, finish
from distsim.interface.rank import Rank, Saved
from distsim.interface.straggler import Straggler
from distsim.interface.strategy import Strategy
from distsim.interface.trace import RECORDS, Arrival, Compute, Interruption, Loss, Trace, Transfer, Update
from distsim.interface.transport import LV08, Transport
from distsim.interface.values import ALL, Batch, Message, Payload, Region, T
from distsim.interface.work import Work
from distsim.interface.worker import Worker

__all__ = [
    "ALL",
    "JOINED",
    "LOST",
    "LV08",
    "RECORDS",
    "SGD",
    "AdamW",
    "Arrival",
    "BadInput",
    "Batch",
    "Block",
    "Budget",
    "Checkpoint",
    "Cluster",
    "Codec",
    "Collective",
    "Compute",
    "Cost",
    "Curve",
    "Deadlock",
    "Device",
    "DistsimError",
    "Diverged",
    "Envelope",
    "Episodes",
    "Experts",
    "Fabric",
    "Failure",
    "Half",
    "Handle",
    "Interrupted",
    "Interruption",
    "Job",
    "Lengths",
    "Loopback",
    "Loss",
    "Losses",
    "Measured",
    "Memory",
    "Message",
    "Model",
    "Numerics",
    "OnLoss",
    "Optimizer",
    "Outage",
    "Outcome",
    "Pace",
    "Part",
    "Pattern",
    "Payload",
    "Piece",
    "PowerSGD",
    "Precision",
    "Problem",
    "Rank",
    "RankFailed",
    "Region",
    "Roofline",
    "Route",
    "Saved",
    "Scaling",
    "Schedule",
    "Snapshot",
    "Spread",
    "Start",
    "Straggler",
    "Strategy",
    "StrategyError",
    "Switch",
    "T",
    "TimedOut",
    "TopK",
    "Topology",
    "Trace",
    "Transfer",
    "Transport",
    "Update",
    "Work",
    "Worker",
    "drive",
    "finish",
    "interrupted",
    "is_part",
]
