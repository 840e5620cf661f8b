"""Networks between hosts: which links lie between two of them. Standard library only.

A family is a frozen dataclass with the methods of `distsim.interface.Topology`. Cable c of a topology is its links 2c and
2c + 1, one a direction; what holds of any topology (half duplex, cables that are slower than the rest) wraps one. Several
hosts may be one machine's devices: a host is where a rank lives. A way between two hosts is fixed, whatever else is under
way, as on networks that route by destination.
"""

from distsim.topologies.fat_tree import FatTree
from distsim.topologies.fully_connected import FullyConnected
from distsim.topologies.graph import Graph, Link
from distsim.topologies.nics import SwitchedNics
from distsim.topologies.torus import Torus, ring
from distsim.topologies.two_level import TwoLevel
from distsim.topologies.wiring import HalfDuplex, Scaled

__all__ = [
    "FatTree",
    "FullyConnected",
    "Graph",
    "HalfDuplex",
    "Link",
    "Scaled",
    "SwitchedNics",
    "Torus",
    "TwoLevel",
    "ring",
]
