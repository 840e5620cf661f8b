"""Random draws that depend on what they are for, never on how many were drawn before.

The generator is keyed BLAKE2b in counter mode (standard library, nothing to import), read as 53-bit uniforms.
"""

from __future__ import annotations

import math
from hashlib import blake2b


def uniform(seed: int, purpose: str, *counter: int) -> float:
    """A uniform draw in the open interval (0, 1), the same for the same arguments in every process."""
    digest = blake2b(repr((seed, purpose, counter)).encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "little") >> 11) + 0.5) * 2.0**-53


def normal(seed: int, purpose: str, *counter: int) -> float:
    """A standard normal draw, by Box and Muller from two uniform ones."""
    radius = math.sqrt(-2.0 * math.log(uniform(seed, purpose, *counter)))
    return radius * math.cos(2.0 * math.pi * uniform(seed, f"{purpose} angle", *counter))
