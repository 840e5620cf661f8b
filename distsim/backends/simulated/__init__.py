"""A fabric on SimPy: hosts, links, compute queues and collectives under a simulated clock."""

from distsim.backends.simulated.fabric import SimulatedOptions
from distsim.backends.simulated.run import simulate

__all__ = ["SimulatedOptions", "simulate"]
