"""The real backend: local processes on torch.distributed. Importing it does not import torch."""

from distsim.backends.real.launch import launch
from distsim.backends.real.options import RealOptions, device_of
from distsim.backends.real.parcel import pack

__all__ = ["RealOptions", "device_of", "launch", "pack"]
