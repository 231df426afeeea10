"""The command line in several processes, none of which may have a thread of gloo's left when it ends: code 3 if one has."""

from __future__ import annotations

import sys
from pathlib import Path

from latentloop import cli

if __name__ == "__main__":
    code = cli.main()
    threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    sys.exit(code or 3 * any("gloo" in name for name in threads))
