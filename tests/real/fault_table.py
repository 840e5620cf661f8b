"""Run many faults and write a table of them: case, seconds from the fault to the end, its limit, processes left, message.

    PYTHONPATH=tests python -m real.fault_table --cases 110 --seed 5 --fault-table faults.txt

The exit code is 1 if anything is not as promised; times are reported, with what kept the machine busy.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from real.fuzz import Case, Found, cases, limit, measure, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=110)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose words contain this")
    parser.add_argument("--fault-table", type=Path, required=True)
    options = parser.parse_args()
    rows: list[tuple[Case, Found, list[str]]] = []
    with options.fault_table.open("w") as table:
        table.write("seconds  limit  left  load  status       case: first line of the message\n")
        for case in cases(options.seed, options.cases):
            if options.only not in str(case):
                continue
            with tempfile.TemporaryDirectory() as folder:
                found = measure(case, Path(folder))
            problems = wrong(case, found)
            rows.append((case, found, problems))
            seconds = "      -" if found.seconds is None else f"{found.seconds:7.2f}"
            line = f"{seconds} {limit(case, found):6.1f} {len(found.left):5} {os.getloadavg()[0]:5.1f}  {found.status:11}"
            said = found.message.partition("\n")[0].replace(folder, "")
            table.write(f"{line}  {case}: {said}\n" + "".join(f"    NOT AS PROMISED: {each}\n" for each in problems))
            table.flush()
        table.write(summary(rows))
    print(summary(rows))
    return int(any(problems for _, _, problems in rows))


def summary(rows: list[tuple[Case, Found, list[str]]]) -> str:
    """By fault: how many, and the seconds."""
    text = f"\n{len(rows)} cases, {sum(bool(problems) for _, _, problems in rows)} not as promised, "
    late = [case for case, found, _ in rows if found.seconds is not None and found.seconds > limit(case, found)]
    text += f"{len(late)} later than promised, {sum(len(found.left) for _, found, _ in rows)} processes left\n"
    for how in dict.fromkeys(case.how for case, _, _ in rows):
        times = [found.seconds for case, found, _ in rows if case.how == how and found.seconds is not None]
        if times:
            text += (
                f"{how:13} {len(times):3} cases: median {statistics.median(times):6.2f} s, longest {max(times):6.2f} s\n"
            )
    return text


if __name__ == "__main__":
    sys.exit(main())
