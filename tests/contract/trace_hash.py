"""Print a hash of everything that the runs of all strategies record: `python -m contract.trace_hash [all]`.

Of two clusters and stragglers the strategies take turns; with `all` each has both.
"""

import sys
from hashlib import blake2b

from contract.runs import STRATEGIES, records, run

CASES = (("loopback", "lognormal"), ("slow switch", "exponential"))

if __name__ == "__main__":
    for has_values in (False, True):
        digest = blake2b(digest_size=16)
        for turn, strategy in enumerate(STRATEGIES):
            for network, straggler in CASES if sys.argv[1:] == ["all"] else [CASES[turn % 2]]:
                outcome = run(strategy, network, straggler, has_values)
                losses = [loss.value for trace in outcome.traces for loss in trace.losses]
                digest.update(repr((records(outcome), losses)).encode())
        print("cosimulated" if has_values else "modeled", digest.hexdigest())
