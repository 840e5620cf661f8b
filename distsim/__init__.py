"""distsim: one strategy object trains for real, is modeled, is cosimulated, and one report compares them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distsim.api import Result, load, run, sweep
    from distsim.interface import BadInput

__version__ = "0.1.0"
__all__ = ["BadInput", "Result", "load", "run", "sweep"]


def __getattr__(name: str) -> Any:
    """Import on first use: `import distsim` and `distsim --help` cost nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'distsim' has no attribute {name!r}")
    if name == "BadInput":
        from distsim.interface import BadInput

        return BadInput
    from distsim import api

    return getattr(api, name)
