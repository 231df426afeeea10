"""What the speed benchmark is asked for, and the sizes it runs at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["SIZES", "Clock", "Device", "Options", "Size", "SizeName"]

SizeName = Literal["toy", "quick", "full"]
Clock = Literal["wall", "cpu"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Args:
        users: of the log that training, ranking and recommending run on.
        items: of its catalog.
        actions: of an average user of it.
        spt_batch: rows of a pre-training step, and of the larger post-training step on CUDA.
        rpt_batch: rows of a post-training step.
        asked: users that are ranked and recommended to.
        epoch_users: users of the smaller log that a whole epoch goes through on the CPU.
        depths: where the depth sweep measures, shallowest first.
        depth_batch: rows of its steps.
        catalogs: catalogs of the catalog sweep, smallest first.
        catalog_rows: rows of it.
        dense_items: the largest catalog whose whole (rows x items) scores the plain twin still holds.
        rows: rows of the files that data preparation reads, smallest first.
        pandas_rows: the largest file that the plain twin still reads.
        seconds: a pair of measurements stops after so many, once it had three turns.
    """

    users: int
    items: int
    actions: float
    spt_batch: int
    rpt_batch: int
    asked: int
    epoch_users: int
    depths: tuple[int, ...]
    depth_batch: int
    catalogs: tuple[int, ...]
    catalog_rows: int
    dense_items: int
    rows: tuple[int, ...]
    pandas_rows: int
    seconds: float


_INSTRUMENT = (57_439, 24_587, 8.9)
"""Users, items and average length of the paper's Instrument data."""

SIZES: dict[SizeName, Size] = {
    "toy": Size(60, 40, 8.0, 32, 8, 48, 12, (1, 2), 16, (40, 80), 16, 60, (3_000,), 3_000, 0.0),
    "quick": Size(
        *_INSTRUMENT, 1024, 256, 4096, 200, (1, 8), 256, (24_587, 100_000), 1024, 200_000, (1_000_000,), 2_000_000,
        8.0,
    ),
    "full": Size(
        *_INSTRUMENT, 1024, 256, 8192, 4_000, (1, 2, 4, 8), 1024, (24_587, 100_000, 1_000_000), 1024, 200_000,
        (1_000_000, 20_000_000), 2_000_000, 60.0,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What to measure."""

    full: bool = False
    """All sizes instead of the five-minute choice; the same as --size full."""
    size: SizeName = "quick"
    """How large everything is; "toy" takes seconds and only shows that everything runs."""
    device: Device = "cpu"
    """Where everything runs; on "cuda" memory is what torch allocates there, and data preparation is left out."""
    threads: int = 2
    """CPU threads."""
    clock: Clock = "wall"
    """What time is: "cpu" is this process's own on all its threads, for one thread on a busy machine."""
    repeats: int = 5
    """Turns of each pair, at most; at least three where there are as many."""
    out: Path | None = None
    """Folder for speed.json and speed.md; benchmarks/results where None, or its cuda with --device cuda."""
    against: Path | None = None
    """A stored speed.json: end with 1 and say so where a ratio fell beyond the noise of both runs."""
    only: tuple[str, ...] = ()
    """Measure only the groups of these names."""
    memory: bool = True
    """Whether to measure peak memory, on the CPU each in a process of its own."""
    scratch: Path | None = None
    """Where large files lie meanwhile; a temporary folder where None."""
    alone: tuple[str, str] | None = None
    """Case and side (fast, twin) to run alone in this process; used by the benchmark itself."""

    @property
    def sizes(self) -> Size:
        """The chosen sizes."""
        return SIZES["full" if self.full else self.size]

    @property
    def folder(self) -> Path:
        """Where speed.json and speed.md go."""
        return self.out or Path("benchmarks/results", *(["cuda"] if self.device == "cuda" else []))

    def on_cpu(self, value: float, otherwise: float | None = None) -> float | None:
        """`value` on the CPU, such as what two cores shall reach, and `otherwise` on CUDA."""
        return value if self.device == "cpu" else otherwise
