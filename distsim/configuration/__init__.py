"""Configurations of runs: read, checked and resolved. Standard library only, but for the YAML file of a graph."""

from distsim.configuration.run import Resolved, resolve, run_seed

__all__ = ["Resolved", "resolve", "run_seed"]
