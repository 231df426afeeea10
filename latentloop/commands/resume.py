"""`latentloop resume`: go on with a run by the options that it was started with."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from latentloop.commands.places import Device
from latentloop.errors import InputError

if TYPE_CHECKING:
    from latentloop.commands.train import Train

__all__ = ["Resume", "resume_command"]


def resume_command(run: Path, **options: str | None) -> str:
    """The command, as a shell takes it.

    Args:
        run: the run directory.
        options: what is given with it; None is left out.
    """
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", value)]
    path = str(run)
    return shlex.join(["latentloop", "resume", f"./{path}" if path.startswith("-") else path, *given])


@dataclass(frozen=True)
class Resume:
    """Continue a run from the last epoch that it finished: what `train --resume` does with the same options again.

    Options and data are the run's own. What a configuration names is neither read nor run: no file, and no --encoder.
    """

    run_directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A directory made by `latentloop train`."""
    epochs: int | None = None
    """More pre-training epochs at most; the run's when not given."""
    rpt_epochs: int | None = None
    """More post-training epochs at most; the run's when not given."""
    patience: int | None = None
    """A longer patience; the run's when not given."""
    encoder: str | None = None
    """The package.module:function that the run was trained with, for blocks of your own."""
    device: Device | None = None
    """Where to train; the best there is when not given."""
    tracker: Literal["tensorboard"] | None = None
    """Also log each epoch's numbers to RUN/tensorboard."""

    def run(self) -> None:
        """Carry it out."""
        self.train().run()

    def train(self) -> Train:
        """The command that the run was started with, to be continued.

        Raises:
            InputError: where there is no run, it was made in Python or has kept no data yet, its configuration is
                damaged, or it needs --encoder.
        """
        from latentloop.commands.saved import saved_train
        from latentloop.runs.directory import RunDirectory
        from latentloop.runs.lock import held

        run = RunDirectory.open(self.run_directory)
        with held(run.path):  # whoever trains there is told first
            pass
        if "source" not in run.config():
            raise InputError(
                f"{run.path} was not made by `latentloop train`: continue it in Python, by two_stage with its own options"
            )
        asked = saved_train(run)
        if not asked.kept():
            raise InputError(
                f"{run.path} does not hold what it was to read: give `latentloop train` its options again, with --resume"
            )
        if asked.model.encoder != self.encoder:
            raise InputError(
                f"{run.path} was trained with --encoder {asked.model.encoder!r}: give it again, it is never read from a file"
                if asked.model.encoder is not None
                else f"{run.path} was trained with --backbone {asked.model.backbone}: leave out --encoder"
            )
        given = {name: getattr(self, name) for name in ("epochs", "rpt_epochs", "patience")}
        budget = {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(
            asked,
            resume=True,
            device=self.device,
            tracker=self.tracker,
            training=dataclasses.replace(asked.training, **budget),
        )
