"""From a command line to a command: tyro makes the options from the commands' dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import tyro

from latentloop.commands.demo import Demo
from latentloop.commands.evaluate import Evaluate
from latentloop.commands.prepare import Prepare
from latentloop.commands.recommend import Recommend
from latentloop.commands.resume import Resume
from latentloop.commands.train import Train

__all__ = ["Command", "parse"]

Command = Train | Resume | Evaluate | Recommend | Prepare | Demo

_Commands = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Resume, tyro.conf.subcommand("resume")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Recommend, tyro.conf.subcommand("recommend")]
    | Annotated[Prepare, tyro.conf.subcommand("prepare")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
)


def parse(arguments: Sequence[str]) -> Command:
    """The command that was asked for; `--help` and unknown options leave by `SystemExit`.

    Args:
        arguments: the command line without the program's name.
    """
    command: Command = tyro.cli(
        _Commands,
        args=list(arguments),
        prog="latentloop",
        description="Latent reasoning with recurrent depth for sequential recommendation.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return command
