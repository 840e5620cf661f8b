"""The strategies: one file a family. They import `distsim.interface` and each other only."""
