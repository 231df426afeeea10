"""From a source of interactions to batches: tables, sequences, splits, positives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentloop.lazily import lazily

if TYPE_CHECKING:
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

_HOME = {
    "Batch": "batch",
    "DataCard": "card",
    "HashingEncoder": "hashing_encoder",
    "Interactions": "interactions",
    "SameTarget": "positives",
    "Samples": "sequences",
    "SentenceTransformerEncoder": "sentence_encoder",
    "Sequences": "sequences",
    "Split": "splits",
    "Windows": "windows",
    "align_embeddings": "item_embeddings",
    "batches": "batch",
    "encode_item_text": "text_encoders",
    "global_time": "splits",
    "k_core": "kcore",
    "leave_one_out": "splits",
    "load_embeddings": "item_embeddings",
    "load_interactions": "readers",
    "load_item_text": "item_text",
    "load_saved_interactions": "store",
    "load_text_features": "text_encoders",
    "num_batches": "batch",
    "save_interactions": "store",
    "synthetic_log": "synthetic",
}

__getattr__, __dir__ = lazily(__name__, _HOME)
