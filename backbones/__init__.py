"""Backbones: factories of the blocks that `RecurrentDepth` or `Recommender` take. Installs as `latentloop.backbones`."""

from __future__ import annotations

from latentloop.backbones.sasrec import SASRec

__all__ = ["SASRec"]
