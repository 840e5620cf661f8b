"""Runs over a real network of known rate: hosts in network namespaces (root; `make test-netns`)."""
