"""How fast and how large: see `python -m benchmarks.speed --help`."""
