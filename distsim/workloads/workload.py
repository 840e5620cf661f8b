"""What a workload is: a description of a model without torch, and a task with torch for those who compute.

A workload is a frozen dataclass; its fields are its configuration (`workload.batch=32`). A modeled run asks for the
description only, so nothing here imports torch but inside `task`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, ClassVar, Protocol

from distsim.interface.errors import Problem
from distsim.interface.model import Model

if TYPE_CHECKING:
    from distsim.workloads.task import Task

LARGEST_BATCH = 1_000_000
"""Samples a worker: more is a slip."""


class Workload(Protocol):
    """A model with its data. Must be picklable: every rank of a real run makes its own task from it."""

    name: ClassVar[str]

    def problems(self) -> Iterable[Problem]:
        """What is wrong with its fields; nothing if it can run."""

    def obstacles(self) -> Iterable[Problem]:
        """What keeps it from being trained, though its description is one: modeled runs do not ask."""
        return ()

    def model(self) -> Model:
        """The description of the model; equal fields give an equal description."""

    def fingerprint(self) -> str:
        """A hash of what a run depends on beside the fields: the content of the data, and of a user's code."""

    def task(self, seed: int) -> Task:
        """The blocks, freshly initialised from `seed` alone, with their data and loss. Imports torch."""


def spelled(workload: Workload) -> str:
    """The settings that choose `workload`, as a command takes them; those that stand at their defaults are left out."""
    named = [f"workload={workload.name}"]
    for field in fields(workload):  # type: ignore[arg-type]
        value = getattr(workload, field.name)
        if field.default is MISSING or value != field.default:
            named.append(f"workload.{field.name}={value}")
    return " ".join(named)
