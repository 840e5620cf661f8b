"""Configurations of runs: read, checked and resolved. Standard library only; knows neither Hydra nor YAML."""

from distsim.configuration.run import Resolved, resolve, run_seed

__all__ = ["Resolved", "resolve", "run_seed"]
