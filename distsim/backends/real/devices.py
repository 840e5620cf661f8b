"""The device of a rank: what is set of it before it is used.

Deterministic: two runs of one configuration on one machine compute the same bits, wherever the order in which ranks hear of
each other decides nothing, as in every synchronous strategy. gloo sums in an order that ranks and sizes give, NCCL by an
algorithm that it chooses by sizes and wires.
"""

from __future__ import annotations

import os

import torch


def make_deterministic() -> None:
    """Take only algorithms that give the same bits in every run; called before CUDA starts, which reads the environment."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what torch.use_deterministic_algorithms asks for
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
