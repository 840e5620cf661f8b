"""The command line. Exit codes: 0 done, 1 a run failed, 2 bad input, 3 some runs of a sweep failed, 130 interrupted (by
Ctrl-C; 143 by SIGTERM).

    distsim run strategy=async_ps backend=modeled budget.updates=200
    distsim run -m strategy=all_reduce,sync_ps backend=real,modeled repeat=0,1,2
    distsim report runs --output report.html
    distsim list strategies | workloads | backends | clusters | stragglers | failures | optimizers
    distsim explain k_sync strategy.k=3 --html k_sync.html
    distsim check k_sync strategy.k=3
    distsim emit slurm strategy=all_reduce cluster=dgx_h100 > job.sh
    distsim calibrate workload=module workload.module=my_model:build --quick
    distsim bench fabric --json fabric.json
    distsim bench overhead --json overhead.json

Here is what can be typed and how a command ends; what each does is in commands.py. Imports stay inside: `--help` takes no
more than argparse does.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_TAKE_SETTINGS = ("run", "explain", "check", "emit", "calibrate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if any(word.startswith("-") for word in rest) or (rest and options.command not in _TAKE_SETTINGS):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    options.rest = rest
    from distsim import commands, signals
    from distsim.interface.errors import BadInput, DistsimError, full_disk

    try:
        with signals.heeded():
            return commands.COMMANDS[options.command](options)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return signals.exit_code() if signals.came() else 0
    except (DistsimError, OSError) as error:
        print(f"distsim: {full_disk(error) or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        with suppress(OSError):  # as in `distsim run 2>&1 | tee log`, where tee ends by the same Ctrl-C
            kept = "; what is finished is kept, and the same command goes on from there"
            print(f"interrupted{kept if options.command == 'run' else ''}", file=sys.stderr)
        return signals.exit_code()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distsim", description="Write a distributed training strategy once; run it for real, modeled, or cosimulated."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run one configuration, or with -m a sweep of them")
    run.add_argument("-m", "--multirun", action="store_true", help="sweep over values separated by commas")
    run.add_argument("--jobs", metavar="N", help="runs at once of a sweep, real ones apart (default: the cores)")
    run.add_argument("--yes", action="store_true", help="allow more than 1,000 runs")
    run.add_argument(
        "settings", nargs="*", default=[], metavar="KEY=VALUE", help="strategy=async_ps budget.updates=200 ..."
    )
    report = commands.add_parser("report", help="one page that compares runs")
    report.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="folders of runs, or of one run")
    report.add_argument("--output", metavar="FILE", type=Path, default=Path("report.html"))
    listing = commands.add_parser("list", help="what can be chosen")
    kinds = ("strategies", "workloads", "backends", "clusters", "stragglers", "failures", "optimizers")
    listing.add_argument("what", choices=kinds)
    listing.add_argument("--json", action="store_true", help="for programs")
    explain = commands.add_parser("explain", help="draw what a strategy does, on a small cluster")
    explain.add_argument("strategy", metavar="STRATEGY")
    explain.add_argument(
        "settings", nargs="*", default=[], metavar="KEY=VALUE", help="strategy.k=3 straggler=one_slow cluster.workers=3 ..."
    )
    explain.add_argument("--html", metavar="FILE", type=Path, help="write a page as well")
    check = commands.add_parser("check", help="hold a strategy to what every built-in one passes")
    check.add_argument("strategy", metavar="STRATEGY")
    check.add_argument(
        "settings", nargs="*", default=[], metavar="KEY=VALUE", help="strategy.k=3 cluster.workers=4 budget.updates=20"
    )
    check.add_argument("--equals-one-process", action="store_true", help="its weights must be those of one process")
    check.add_argument("--real", action="store_true", help="on two real ranks, too")
    emit = commands.add_parser("emit", help="print a script that starts a run on a cluster")
    emit.add_argument("engine", choices=("slurm", "torchrun"))
    emit.add_argument("--per-node", metavar="N", help="ranks a node (default: as the cluster says)")
    emit.add_argument("settings", nargs="*", default=[], metavar="KEY=VALUE", help="strategy=async_ps cluster=dgx_h100 ...")
    calibrate = commands.add_parser("calibrate", help="measure this machine, so that it can be modeled")
    calibrate.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="workload=char_gpt cluster.workers=8 ...",
    )
    calibrate.add_argument("--quick", action="store_true", help="half a minute instead of two")
    calibrate.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what the ranks compute on")
    calibrate.add_argument("--output", metavar="FILE", type=Path, default=Path(".distsim/profile.json"))
    bench = commands.add_parser("bench", help="measure distsim itself")
    _add_benchmarks(bench.add_subparsers(dest="what", required=True, metavar="BENCHMARK"))
    return parser


def _add_benchmarks(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    fabric = kinds.add_parser("fabric", help="CPU and memory of simulating, by workload")
    fabric.add_argument("--simgrid", metavar="PATH", type=Path, help="compare with this program (tests/benchmarks/simgrid)")
    fabric.add_argument("--workers", metavar="N,N", default="64,256,1024", help="how many (default: 64,256,1024)")
    overhead = kinds.add_parser("overhead", help="steps of real runs against hand-written torch, on CPUs")
    overhead.add_argument("--workloads", metavar="NAME,NAME", default="mlp_5m,char_gpt_10m", help="(default: both)")
    overhead.add_argument("--ranks", metavar="N,N", default="2,4", help="how many (default: 2,4)")
    strategies = "all_reduce,zero,gpipe,one_f_one_b"
    overhead.add_argument("--strategies", metavar="NAME,NAME", default=strategies, help="(default: all four)")
    overhead.add_argument("--limit-seconds", metavar="S", type=float, default=900.0, help="of everything (default: 900)")
    share = "reject blocks in which other processes use more of the cores (default: 0.04)"
    overhead.add_argument("--others", metavar="SHARE", type=float, default=0.04, help=share)
    overhead.add_argument("--seed", metavar="N", type=int, default=0, help="of the order of blocks")
    for kind in (fabric, overhead):
        kind.add_argument("--json", metavar="FILE", type=Path, help="write the rows as a list")
        kind.add_argument("--profile", action="store_true", help="say where the time goes, besides")


if __name__ == "__main__":
    sys.exit(main())
