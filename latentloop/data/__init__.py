"""From a source of interactions to batches: tables, sequences, splits, positives."""

from __future__ import annotations

from latentloop.data.batch import Batch, batches, num_batches
from latentloop.data.card import DataCard
from latentloop.data.interactions import Interactions
from latentloop.data.kcore import k_core
from latentloop.data.positives import SameTarget
from latentloop.data.readers import load_interactions
from latentloop.data.sequences import Samples, Sequences
from latentloop.data.splits import Split, global_time, leave_one_out
from latentloop.data.store import load_saved_interactions, save_interactions
from latentloop.data.synthetic import synthetic_log

__all__ = [
    "Batch",
    "DataCard",
    "Interactions",
    "SameTarget",
    "Samples",
    "Sequences",
    "Split",
    "batches",
    "global_time",
    "k_core",
    "leave_one_out",
    "load_interactions",
    "load_saved_interactions",
    "num_batches",
    "save_interactions",
    "synthetic_log",
]
