"""distsim: one strategy object trains for real, is modeled, is cosimulated, and one report compares them."""

__version__ = "0.1.0"
