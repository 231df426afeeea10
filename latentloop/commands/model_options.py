"""Options that say which model is built: a built-in backbone or blocks of one's own, and the loop around them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from latentloop.checks import DEEPEST, as_deep, at_least
from latentloop.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from latentloop.depth import DepthLaw
    from latentloop.items.text_features import TextFeatures
    from latentloop.recipes import Backbone
    from latentloop.recommender import Recommender

__all__ = ["ModelOptions"]

_BACKBONE_SETTINGS = {
    "pre_layers": "pre_layers",
    "core_layers": "core_layers",
    "heads": "heads",
    "inner": "inner",
    "norm": "norm",
    "padding": "padding",
    "filter_weight": "alpha",
    "cutoff": "cutoff",
    "experts": "experts",
}
"""Options, and what they are called in a backbone: --alpha is pre-training's already."""


@dataclass(frozen=True)
class ModelOptions:
    """The model. A setting that is not given takes the backbone's own default: its paper's value, except that blocks
    have two layers each, --norm is pre and --padding zero, where post and keep are published."""

    backbone: Literal["sasrec", "fmlprec", "bsarec", "tedrec"] = "sasrec"
    """The encoder whose layers become pre-block and core-block."""
    encoder: str | None = None
    """Blocks of your own instead, as package.module:function; the function is called with d (and max_length=L,
    where it has a parameter of that name) and returns the pre-block and the core-block, which may be the same module,
    or "copy". It is never read from a file: evaluate, recommend, resume and --resume need it again."""
    dim: int = 64
    """d: size of item vectors and thoughts."""
    pre_layers: int | None = None
    """Layers of the pre-block."""
    core_layers: int | None = None
    """Layers of the core-block."""
    heads: int | None = None
    """Attention heads."""
    inner: int | None = None
    """Width of the feed-forward nets."""
    norm: Literal["pre", "post"] | None = None
    """Layer norm before each sub-layer, or after it."""
    padding: Literal["zero", "keep"] | None = None
    """fmlprec, bsarec: zeros at padded positions before each filter, or what stands there."""
    filter_weight: float | None = None
    """bsarec: alpha, the weight of its frequency rescaler; attention has the rest."""
    cutoff: int | None = None
    """bsarec: c; the lowest c // 2 + 1 frequencies pass as they are."""
    experts: int | None = None
    """tedrec: experts of its text adaptor."""
    dropout: float = 0.5
    """Dropout probability, on the input and in a built-in backbone's blocks."""
    aggregate: Literal["add", "mean", "concat", "gate"] = "add"
    """f: how a thought meets the history again."""
    mean_depth: int = 3
    """k-bar: training depths average k-bar + 1, which is also the depth of an answer."""
    depth: Literal["log-normal-poisson", "fixed", "uniform"] = "log-normal-poisson"
    """The law of training depths; uniform draws from 1 to 2 k-bar + 1."""
    state_std: float = 1.0
    """s1: standard deviation of the random start state."""
    own_norms: bool = False
    """Each of the first k-bar + 1 thoughts has layer norms of its own in the core-block."""
    own_rank: int = 0
    """With --own-norms: each of these thoughts also changes each matrix of the core-block's linear layers and attentions by one of this rank."""
    inference_state: Literal["shared", "fresh", "zero"] = "shared"
    """The start state of an answer."""
    scorer: Literal["dot", "cosine"] | None = None
    """How thoughts are compared with items; cosine for tedrec and dot for the others when not given."""

    @property
    def reads_texts(self) -> bool:
        """Whether the backbone asks for item texts."""
        return self.encoder is None and self.backbone == "tedrec"

    def build(
        self, num_items: int, max_length: int, *, seed: int, loop: bool = True, text: TextFeatures | None = None
    ) -> Recommender:
        """A new recommender, its weights drawn from `seed`; without the loop it is Base."""
        import torch

        from latentloop.randomness import dropout_seed, fold
        from latentloop.recipes import build_recommender
        from latentloop.recommender import Recommender

        common: dict[str, Any] = {
            "dim": self.dim,
            "max_length": max_length,
            "dropout": self.dropout,
            "inference_state": self.inference_state,
            "seed": seed,
        }
        with dropout_seed(fold(seed, "weights"), torch.device("cpu")):
            if self.encoder is not None:
                return Recommender(
                    num_items,
                    self.own_encoder(self.encoder, max_length, loop=loop),
                    scorer=self.scorer or "dot",
                    **common,
                )
            backbone, depth_law = self.built_in(text), self.depth_law()
            try:
                return build_recommender(
                    backbone,
                    num_items,
                    loop=loop,
                    aggregate=self.aggregate,
                    depth_law=depth_law,
                    state_std=self.state_std,
                    own_norms=self.mean_depth + 1 if self.own_norms and loop else 0,
                    own_rank=self._rank() if loop else 0,
                    scorer=self.scorer,
                    **common,
                )
            except InputError as error:
                raise self._by_option(error) from None

    def built_in(self, text: TextFeatures | None = None) -> Backbone:
        """The hyper-parameters of the chosen backbone, and the texts where it reads them.

        Raises:
            InputError: for a setting that this backbone does not have.
        """
        from latentloop.recipes import BACKBONES

        kind = BACKBONES[self.backbone]
        known = {field.name for field in dataclasses.fields(kind)}
        given = self._given()
        for option in given:
            if _BACKBONE_SETTINGS[option] not in known:
                raise InputError(f"{_option(option)} is not a setting of {self.backbone}: leave it out")
        settings = {_BACKBONE_SETTINGS[option]: value for option, value in given.items()}
        if self.reads_texts:
            settings["text"] = text
        backbone: Backbone = kind(**settings, dropout=self.dropout)
        return backbone

    def own_encoder(self, name: str, max_length: int, *, loop: bool) -> nn.Module:
        """The loop around blocks of one's own, or the blocks stacked once.

        Args:
            name: package.module:function.
            max_length: L.
            loop: whether to think.

        Raises:
            InputError: for a setting that only built-in backbones have.
        """
        from torch import nn

        from latentloop.adapt import adapt_both
        from latentloop.blocks.low_rank import matrices
        from latentloop.commands.own_blocks import load_blocks
        from latentloop.per_step import PerStep
        from latentloop.recurrence import RecurrentDepth
        from latentloop.stacked import Stacked

        given = self._given()
        if given:
            raise InputError(f"{_option(next(iter(given)))} is a setting of built-in backbones: leave it out")
        blocks = load_blocks(name, self.dim, max_length)
        if not loop:
            return Stacked(*blocks)
        depth_law = self.depth_law()
        pre_block, shared = adapt_both(*blocks)
        if self.own_norms and not any(isinstance(part, nn.LayerNorm) for part in shared.modules()):
            raise InputError(f"--own-norms needs layer norms, and the core-block of {name} has none")
        rank = self._rank()
        if rank and next(matrices(shared), None) is None:
            raise InputError(f"--own-rank needs linear layers or attention, and the core-block of {name} has neither")
        core_block = PerStep(shared, self.mean_depth + 1, rank=rank) if self.own_norms else shared
        return RecurrentDepth(pre_block, core_block, self.aggregate, depth_law=depth_law, state_std=self.state_std)

    def depth_law(self) -> DepthLaw:
        """What training draws the depth from."""
        from latentloop.depth import FixedDepth, LogNormalPoisson, UniformDepth

        if self.depth == "log-normal-poisson":
            return LogNormalPoisson(self.mean_depth)
        fixed = self.depth == "fixed"
        if at_least("mean_depth", self.mean_depth, 0):
            as_deep("mean_depth", self.mean_depth, (DEEPEST - 1) // (1 if fixed else 2))
        return FixedDepth(self.mean_depth + 1) if fixed else UniformDepth(1, 2 * self.mean_depth + 1)

    def _rank(self) -> int:
        """Of each thought's changes; they come with norms, so that what is saved is one of two kinds."""
        if at_least("own_rank", self.own_rank, 0) and not self.own_norms:
            raise InputError("--own-rank needs --own-norms: give both, or neither")
        return self.own_rank

    def _by_option(self, error: InputError) -> InputError:
        """An error about a backbone's setting, by the option's name where that is another."""
        name, must, rest = str(error).partition(" must ")
        options = [option for option in self._given() if _BACKBONE_SETTINGS[option] == name]
        return InputError(f"{options[0]}{must}{rest}", settings=error.settings) if options else error

    def _given(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in _BACKBONE_SETTINGS}
        return {name: value for name, value in settings.items() if value is not None}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
