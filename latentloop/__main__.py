"""`python -m latentloop`: the command line, for launchers that start modules."""

import sys

from latentloop.cli import main

if __name__ == "__main__":
    sys.exit(main())
