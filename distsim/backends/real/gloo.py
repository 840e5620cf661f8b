"""torch.distributed's calls with types that hold here: whoever calls is a member, so that a request always comes back."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist


class Request(Protocol):
    """A transfer that the transport has started."""

    def wait(self) -> object:
        """Wait until it is over. Raises `RuntimeError` if the peer is gone."""


class Store(Protocol):
    """Where ranks agree."""

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        """Set `key` to `desired` if it has the value `expected` (or none); the value it has then."""


def isend(x: torch.Tensor, to: int, tag: int) -> Request:
    """Start to send."""
    return checked(dist.isend(x, to, tag=tag))


def irecv(x: torch.Tensor, source: int | None, tag: int) -> Request:
    """Post a receive, from any rank if `source` is None."""
    return checked(dist.irecv(x, source, tag=tag))


def checked(request: Request | None) -> Request:
    """The request, which only ranks that take no part are not given."""
    assert request is not None
    return request
