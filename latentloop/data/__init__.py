"""From a source of interactions to batches: tables, sequences, splits, positives."""

from __future__ import annotations

from latentloop.data.batch import Batch, batches, num_batches
from latentloop.data.card import DataCard
from latentloop.data.hashing_encoder import HashingEncoder
from latentloop.data.interactions import Interactions
from latentloop.data.item_embeddings import align_embeddings, load_embeddings
from latentloop.data.item_text import load_item_text
from latentloop.data.kcore import k_core
from latentloop.data.positives import SameTarget
from latentloop.data.readers import load_interactions
from latentloop.data.sentence_encoder import SentenceTransformerEncoder
from latentloop.data.sequences import Samples, Sequences
from latentloop.data.splits import Split, global_time, leave_one_out
from latentloop.data.store import load_saved_interactions, save_interactions
from latentloop.data.synthetic import synthetic_log
from latentloop.data.text_encoders import encode_item_text, load_text_features
from latentloop.data.windows import Windows

__all__ = [
    "Batch",
    "DataCard",
    "HashingEncoder",
    "Interactions",
    "SameTarget",
    "Samples",
    "SentenceTransformerEncoder",
    "Sequences",
    "Split",
    "Windows",
    "align_embeddings",
    "batches",
    "encode_item_text",
    "global_time",
    "k_core",
    "leave_one_out",
    "load_embeddings",
    "load_interactions",
    "load_item_text",
    "load_saved_interactions",
    "load_text_features",
    "num_batches",
    "save_interactions",
    "synthetic_log",
]
