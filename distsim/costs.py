"""The cluster of a run, and what it costs by: which profile, and what the run asks that the profile does not know.

A block's costs are found by its kind (what it is, its shapes, its code's counts), so those of another workload are never
taken for them: what was not measured is estimated, and said, in the run's row and before it starts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import inf
from pathlib import Path
from shlex import quote

from distsim.calibration.profile import DEFAULT, Profile, current
from distsim.configuration import Resolved
from distsim.configuration.networks import placement, topology
from distsim.interface import Cluster, Device, Loopback, Roofline, Topology
from distsim.workloads.workload import Workload, spelled


@dataclass(frozen=True)
class Costs:
    """What is to be said of the profile that a cluster stands on."""

    fingerprint: str = ""
    note: str = ""
    """Where it comes from, and what of the run it does not know."""
    warnings: tuple[str, ...] = ()
    disturbed: str = ""
    """What disturbed its measuring, if the run predicts with it."""


def costed(resolved: Resolved, content: str) -> tuple[Cluster, Costs]:
    """The cluster, and what it costs by. `content` is the hash of the workload's data and code."""
    section = resolved.cluster
    costs = Costs()
    device: Device
    network: Topology | Loopback
    if section.device == "profile" or section.network == "loopback":
        path = DEFAULT if section.profile == "auto" else Path(section.profile)
        profile, note, fingerprint = _profile(path, section.profile == "auto", _age(path))
        costs = Costs(fingerprint, note)
    if section.device == "profile":
        device = profile.device()
    else:
        device = Roofline(
            (section.flops or 0.0) * (section.efficiency or 1.0), section.memory_bandwidth or 0.0, section.overhead or 0.0
        )
    strategy, workers = resolved.strategy, section.workers
    servers, beside = strategy.server_count(workers), strategy.servers_beside()
    hosts = workers if beside else workers + servers
    network = profile.loopback() if section.network == "loopback" else topology(section, hosts)
    cluster = Cluster(
        workers,
        servers,
        device,
        network,
        memory=section.memory or inf,
        beside=beside,
        transport=section.transport,
        placement=placement(section, hosts),
    )
    if costs.note and resolved.backend != "real":
        costs = _predicting(resolved, content, cluster, profile, costs)
    return cluster, costs


def _predicting(resolved: Resolved, content: str, cluster: Cluster, profile: Profile, costs: Costs) -> Costs:
    """The same with what a run that predicts by `profile` has to say."""
    computes, shared = resolved.cluster.device == "profile", resolved.cluster.network == "loopback"
    reducing = cluster.workers if shared and not cluster.servers else 0
    model = resolved.model if computes else replace(resolved.model, blocks=())
    unknown = profile.unmeasured(model, cluster.world_size if shared else 0, reducing)
    note = costs.note + (f"; not measured: {'; '.join(unknown)}" if unknown else "")
    note += f"; the calibration was disturbed: {profile.disturbance}" if profile.disturbance else ""
    workload, words = resolved.workload, spelled(resolved.workload)
    where = "" if resolved.cluster.profile == "auto" else f" --output {quote(resolved.cluster.profile)}"
    remedy = f"`distsim calibrate {words}{where}` measures them"
    warnings = []
    if guessed := profile.guessed(model):
        warnings.append(f"blocks {', '.join(guessed)} were not measured: estimated by FLOPs and bytes; {remedy}")
    elif _changed(profile, workload, content):
        changed = f"the code or the data of {workload.module} have changed since"
        warnings.append(f"{changed} its blocks were measured; {remedy} anew")
        note += f"; {changed}"
    return replace(costs, note=note, warnings=tuple(warnings), disturbed=profile.disturbance)


def _changed(profile: Profile, workload: Workload, content: str) -> bool:
    """A user's workload is not what it was when it was measured."""
    measured = f"workload.module={getattr(workload, 'module', None)}" in profile.workload.split()
    return measured and profile.details.get("fingerprint") != content


def _age(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # whoever reads it says why
        return 0


@cache
def _profile(path: Path, default: bool, age: int) -> tuple[Profile, str, str]:
    """A profile, a note and its hash; `age` tells a file from what it was before."""
    if default:
        profile, note = current(path)
    else:
        profile = Profile.load(path)
        note = f"costs of {path} ({profile.machine}){profile.of_workload}"
    return profile, note, profile.fingerprint()
