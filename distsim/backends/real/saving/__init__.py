"""Checkpoints of real ranks on disk, and how a run goes on from them."""
