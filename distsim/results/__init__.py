"""Stored runs and what follows from them: where time went, when a target was reached, which strategy to take."""
