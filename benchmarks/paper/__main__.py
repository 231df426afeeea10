"""`python -m benchmarks.paper`: see `runner`. A worker process imports by name, and this module's name is not its own."""

import logging
import sys

import tyro

from benchmarks.paper.runner import Options, main
from benchmarks.told import told

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with told():
        sys.exit(3 if main(tyro.cli(Options)) else 0)
