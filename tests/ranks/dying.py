"""The command line in several processes, of which the second is killed in its sixth step."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from latentloop import cli, training_step

genuine, steps = training_step.call, 0


def call(*arguments: Any) -> Any:
    """The objective, for as long as this process lives."""
    global steps
    steps += 1
    if os.environ["RANK"] == "1" and steps == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return genuine(*arguments)


if __name__ == "__main__":
    training_step.call = call
    sys.exit(cli.main())
