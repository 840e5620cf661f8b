"""The checks that every built-in strategy passes, for strategies of others: `check_strategy(MyStrategy())`.

Needs no test framework: it returns, or raises one `CheckFailed` with a line for everything that is wrong. The checks, in
distsim/testing/checks.py, say each what it holds a strategy to.
"""

from distsim.testing.check import CheckFailed, check_strategy
from distsim.testing.checks import Finding

__all__ = ["CheckFailed", "Finding", "check_strategy"]
