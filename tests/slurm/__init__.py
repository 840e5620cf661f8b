"""Runs in Slurm: a cluster of two nodes on this machine (root; `make test-slurm`)."""
