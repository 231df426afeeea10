"""The command line: each command is a dataclass in `latentloop.commands`, from which tyro makes the options."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from latentloop.commands.demo import Demo
from latentloop.commands.evaluate import Evaluate
from latentloop.commands.prepare import Prepare
from latentloop.commands.recommend import Recommend
from latentloop.commands.train import Train
from latentloop.errors import InputError, InputTypeError

__all__ = ["main"]

Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Recommend, tyro.conf.subcommand("recommend")]
    | Annotated[Prepare, tyro.conf.subcommand("prepare")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
)

USER_ERROR, STOPPED, INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 training stopped, 2 the user's mistake, 130 Ctrl-C.

    Args:
        arguments: the command line without the program's name; None takes it from the process.
    """
    # OpenMP's threads spin while they wait for each other, which costs tenfold as soon as another process wants a core
    # too; read when torch is imported, which is later than here
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for noisy in ("httpx", "accelerate", "datasets", "torch"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    command = tyro.cli(
        Command,
        args=list(sys.argv[1:] if arguments is None else arguments),
        prog="latentloop",
        description="Latent reasoning with recurrent depth for sequential recommendation.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    from latentloop.training import NotFinite

    try:
        command.run()
    except (InputError, InputTypeError, OSError) as error:
        _complain(error)
        return USER_ERROR
    except NotFinite as error:
        _complain(error)
        return STOPPED
    except KeyboardInterrupt:
        sys.stderr.write("\nlatentloop: interrupted; what was finished is kept, continue with --resume\n")
        return INTERRUPTED
    return 0


def _complain(error: BaseException) -> None:
    sys.stderr.write(f"latentloop: error: {' '.join(str(error).split())}\n")


if __name__ == "__main__":
    sys.exit(main())
