"""`python -m distsim`, for engines that start modules: `torchrun -m distsim run ...`, `srun python -m distsim run ...`."""

import sys

from distsim.cli import main

if __name__ == "__main__":
    sys.exit(main())
