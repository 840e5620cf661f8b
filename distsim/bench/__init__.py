"""Benchmarks of distsim itself: `distsim bench fabric`."""
