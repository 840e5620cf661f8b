"""The real backend: ranks are processes on torch.distributed. Importing it does not import torch.

launch      starts the ranks (starting, process), watches them and gathers what they give; rank and fabric are their inside
transport/  what ranks send each other
watching/   what they do, who is dead, hung or waiting for whom
saving/     checkpoints, and how a run goes on from them
worlds/     launchers that an engine has started, on one host or many
"""

from distsim.backends.real.launch import launch
from distsim.backends.real.options import RealOptions, device_of
from distsim.backends.real.parcel import pack

__all__ = ["RealOptions", "device_of", "launch", "pack"]
