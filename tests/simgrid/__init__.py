"""The simulated network against SimGrid."""
