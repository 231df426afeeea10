"""`latentloop prepare`: read, clean and describe interactions once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from latentloop.commands.options import ReadOptions
from latentloop.commands.places import spare_runs

__all__ = ["Prepare"]


@dataclass(frozen=True)
class Prepare:
    """Read interactions, filter them to the k-core, and keep them with a data card for `latentloop train`."""

    source: tyro.conf.Positional[str]
    """What `latentloop train` reads."""
    out: Path
    """The folder to make."""
    overwrite: bool = False
    """Replace prepared data that is there."""
    data: tyro.conf.OmitArgPrefixes[ReadOptions] = field(default_factory=ReadOptions)

    def run(self) -> None:
        """Carry it out."""
        from latentloop.data.store import save_interactions
        from latentloop.errors import InputError
        from latentloop.runs.report import say

        spare_runs(self.out)
        if self.out.exists() and not self.overwrite:
            raise InputError(f"{self.out} already exists: replace it with --overwrite, or choose another --out")
        card = save_interactions(self.data.load(self.source), self.out, overwrite=self.overwrite)
        say(card.text())
