"""The contract of the interface, as tests that every mode passes.

- A test is a small program, run on every rank, and a literal expectation. Programs live beside their test, at module level:
  a rank of a real run imports them by name, so their modules import nothing but distsim and this package.
- What a program saw it notes (`note(key, value)`), and the test reads the notes of each rank. Values are expected of modes
  that have tensors, sizes of those that have byte counts: `mode.payload([1, 2])` says which.
- Times are expected of modes with a modeled clock only (the fixture `exact`), and then exactly.
- Another backend joins with `pytest tests/contract --contract-backend=module:function`: a function (Job, folder, options)
  -> Outcome, which may ignore the options, is given tensors and held to everything but exact times.
"""
