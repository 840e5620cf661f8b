"""Real runs: what only they can get wrong. What every mode must do is in tests/contract."""
