"""The pieces of the simulated backend, each by hand calculation."""
