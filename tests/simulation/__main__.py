"""``python -m tests.simulation --seeds 10000 --jobs 2``."""

import sys

from tests.simulation.seeds import main

if __name__ == "__main__":
    sys.exit(main())
