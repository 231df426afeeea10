"""The command line in several processes, of which the second is killed in its sixth step."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

from latentloop import cli
from latentloop.fitting import step as training_step

genuine, steps = training_step.call, itertools.count(1)


def call(*arguments: Any) -> Any:
    """The objective, for as long as this process lives."""
    if next(steps) == 6 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return genuine(*arguments)


if __name__ == "__main__":
    training_step.call = call
    sys.exit(cli.main())
