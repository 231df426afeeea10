"""`latentloop demo`: the whole job on a synthetic log, in a few minutes and without a file."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from latentloop.checks import at_least
from latentloop.commands.model_options import ModelOptions
from latentloop.commands.options import DataOptions, RPTOptions, SplitOptions, SPTOptions, TrainingOptions

__all__ = ["Demo"]


@dataclass(frozen=True)
class Demo:
    """Train both stages on a synthetic log of interleaved intents, print the table, recommend to one user."""

    out: Path | None = None
    """Keep the run here; otherwise it goes to a temporary folder and is removed."""
    users: int = 2000
    """Users of the synthetic log."""
    seed: int = 0
    """Of everything random, the log included."""
    overwrite: bool = False
    """Replace a run that is there."""
    data: tyro.conf.OmitArgPrefixes[SplitOptions] = field(default_factory=SplitOptions)
    model: tyro.conf.OmitArgPrefixes[ModelOptions] = field(default_factory=lambda: ModelOptions(dropout=0.2))
    training: tyro.conf.OmitArgPrefixes[TrainingOptions] = field(
        default_factory=lambda: TrainingOptions(epochs=4, rpt_epochs=1, batch_size=256, learning_rate=2e-3)
    )
    spt: tyro.conf.OmitArgPrefixes[SPTOptions] = field(default_factory=SPTOptions)
    rpt: tyro.conf.OmitArgPrefixes[RPTOptions] = field(default_factory=RPTOptions)

    def run(self) -> None:
        """Carry it out."""
        if self.out is not None:
            self._run(self.out)
            return
        with tempfile.TemporaryDirectory(prefix="latentloop-demo-") as folder:
            self._run(Path(folder) / "run")

    def _run(self, out: Path) -> None:
        from latentloop.commands.train import Train
        from latentloop.data.synthetic import synthetic_log
        from latentloop.runs.directory import RunDirectory
        from latentloop.runs.lock import held
        from latentloop.runs.report import say

        at_least("users", self.users, 1)
        train = Train(
            source=f"synthetic_log(num_users={self.users}, seed={self.seed})",
            out=out,
            seed=self.seed,
            with_base=True,
            overwrite=self.overwrite,
            data=DataOptions(**dataclasses.asdict(self.data)),
            model=self.model,
            training=self.training,
            spt=self.spt,
            rpt=self.rpt,
        )
        RunDirectory.check(out, train.config(), resume=False, overwrite=self.overwrite)
        train.check()
        interactions = self.data.filter(synthetic_log(num_users=self.users, seed=self.seed))
        with held(out):
            result = train.fit(interactions)
        user = interactions.user_ids[0]
        found = result.model.recommend(users=[user], data=interactions, k=5)
        say(f"\nfive recommendations for user {user}:")
        for rank, (item, score) in enumerate(zip(found.items[0], found.scores[0], strict=True), start=1):
            say(f"{rank}. item {item} (score {score:.3f})")
