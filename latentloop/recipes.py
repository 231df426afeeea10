"""Built-in backbones by name: from hyper-parameters to an encoder or a whole recommender, and back to plain values."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

from torch import nn

from latentloop.aggregate import Add, Concat, Gate, Mean
from latentloop.backbones.bsarec import BSARec
from latentloop.backbones.fmlprec import FMLPRec
from latentloop.backbones.sasrec import SASRec
from latentloop.backbones.tedrec import TedRec
from latentloop.checks import at_least
from latentloop.depth import DepthLaw, FixedDepth, LogNormalPoisson, UniformDepth
from latentloop.errors import InputError
from latentloop.per_step import PerStep
from latentloop.recommender import Recommender
from latentloop.recurrence import Encoder, RecurrentDepth
from latentloop.scoring import Scorer

__all__ = ["BACKBONES", "Backbone", "build_encoder", "build_recommender", "describe"]


@runtime_checkable
class Backbone(Protocol):
    """A backbone's hyper-parameters, a frozen dataclass that makes blocks."""

    def blocks(self, dim: int, max_length: int) -> tuple[nn.Module, nn.Module]:
        """Pre-block and core-block for latent size `dim` and rows of at most `max_length` positions."""
        ...

    def base(self, dim: int, max_length: int) -> nn.Module:
        """Both stacked once, without a loop."""
        ...


BACKBONES: dict[str, type[Any]] = {"sasrec": SASRec, "fmlprec": FMLPRec, "bsarec": BSARec, "tedrec": TedRec}
_DEPTH_LAWS: dict[str, type[Any]] = {law.__name__: law for law in (LogNormalPoisson, FixedDepth, UniformDepth)}
_AGGREGATES: dict[type[nn.Module], str] = {Add: "add", Mean: "mean", Concat: "concat", Gate: "gate"}


def build_recommender(
    backbone: Backbone,
    num_items: int,
    *,
    dim: int = 64,
    max_length: int = 20,
    loop: bool = True,
    aggregate: str = "add",
    depth_law: DepthLaw | None = None,
    state_std: float = 1.0,
    own_norms: int = 0,
    own_rank: int = 0,
    dropout: float = 0.5,
    scorer: str | Scorer | None = None,
    inference_state: Any = "shared",
    init_std: float = 0.02,
    seed: int = 0,
) -> Recommender:
    """A recommender around a built-in backbone, with the loop or (`loop=False`, "Base") with its layers stacked once.

    Args:
        backbone: hyper-parameters, such as `SASRec()`.
        num_items: N.
        dim: d.
        max_length: L.
        loop: whether to think.
        aggregate: f, by name.
        depth_law: what training draws the depth from.
        state_std: s1.
        own_norms: how many thoughts have layer norms of their own in the core-block, see `PerStep`; 0 shares them all.
        own_rank: rank of what each of these thoughts changes of each matrix besides, see `PerStep`; 0 changes none.
        dropout: on the embedded history.
        scorer: see `Recommender`; None is the backbone's own, "dot" where it has none.
        inference_state: see `Recommender`.
        init_std: see `Recommender`.
        seed: of the saved draw of T_0.

    Raises:
        InputError: for a value out of range, norms of thoughts without the loop, or a backbone made for another number of
            items.
    """
    dim = at_least("dim", dim, 1)  # before layers of no size warn
    known = getattr(backbone, "num_items", num_items)
    if known != num_items:
        raise InputError(f"num_items is {num_items}, but the backbone knows the texts of {known} items")
    if at_least("own_norms", own_norms, 0) and not loop:
        raise InputError(f"own_norms is {own_norms}, but loop=False does not think: leave it out")
    _check_rank(own_rank, own_norms)
    encoder: nn.Module
    if loop:
        blocks = _blocks(backbone, dim, max_length, own_norms, own_rank)
        encoder = RecurrentDepth(*blocks, aggregate, depth_law=depth_law, state_std=state_std)
    else:
        encoder = backbone.base(dim, max_length)
    model = Recommender(
        num_items,
        encoder,
        dim,
        max_length,
        dropout=dropout,
        scorer=getattr(backbone, "scorer", "dot") if scorer is None else scorer,
        inference_state=inference_state,
        init_std=init_std,
        seed=seed,
    )
    model.backbone = backbone
    return model


def describe(backbone: Any, encoder: Encoder) -> dict[str, Any] | None:
    """A built-in backbone and its loop as plain values; None where a part is the user's own and JSON cannot name it."""
    name = next((name for name, kind in BACKBONES.items() if type(backbone) is kind), None)
    if name is None:
        return None
    # a field of what weights hold, such as a table of texts, is no setting
    plain = (field.name for field in dataclasses.fields(backbone) if field.metadata.get("setting", True))
    settings = {setting: getattr(backbone, setting) for setting in plain}
    if not isinstance(encoder, RecurrentDepth):
        return {"name": name, "settings": settings, "loop": None}
    law, aggregate = encoder.depth_law, _AGGREGATES.get(type(encoder.aggregate))
    core = getattr(encoder.core_block, "module", None)
    if type(law) not in _DEPTH_LAWS.values() or aggregate is None:
        return None
    if isinstance(core, PerStep) and core.own is not nn.LayerNorm:
        return None
    loop = {
        "aggregate": aggregate,
        "state_std": encoder.state_std,
        "depth_law": {"name": type(law).__name__, **dataclasses.asdict(law)},  # type: ignore[call-overload]
    }
    if isinstance(core, PerStep):
        loop["own_norms"] = core.steps
        if core.rank:
            loop["own_rank"] = core.rank
    return {"name": name, "settings": settings, "loop": loop}


def build_encoder(description: dict[str, Any], dim: int, max_length: int) -> tuple[Backbone, nn.Module]:
    """The inverse of `describe`: only the names listed here can be built.

    Raises:
        InputError: for an unknown backbone, or settings it does not have.
    """
    if description["name"] not in BACKBONES:
        raise InputError(f"backbone must be one of {', '.join(BACKBONES)}, got {description['name']!r}")
    backbone: Backbone = BACKBONES[description["name"]](**description["settings"])
    loop = description["loop"]
    if loop is None:
        return backbone, backbone.base(dim, max_length)
    law = dict(loop["depth_law"])
    depth_law: DepthLaw = _DEPTH_LAWS[law.pop("name")](**law)
    own_norms, own_rank = loop.get("own_norms", 0), loop.get("own_rank", 0)
    _check_rank(own_rank, own_norms)
    blocks = _blocks(backbone, dim, max_length, own_norms, own_rank)
    return backbone, RecurrentDepth(*blocks, loop["aggregate"], depth_law=depth_law, state_std=loop["state_std"])


def _check_rank(own_rank: int, own_norms: int) -> None:
    if at_least("own_rank", own_rank, 0) and not own_norms:
        raise InputError(f"own_rank is {own_rank}, but own_norms is 0: say how many thoughts have changes of their own")


def _blocks(
    backbone: Backbone, dim: int, max_length: int, own_norms: int, own_rank: int
) -> tuple[nn.Module, nn.Module]:
    pre_block, core_block = backbone.blocks(dim, max_length)
    if at_least("own_norms", own_norms, 0):
        core_block = PerStep(core_block, own_norms, rank=own_rank)
    return pre_block, core_block
