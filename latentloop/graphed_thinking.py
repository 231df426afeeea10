"""Thoughts of a training step as a CUDA graph: one launch instead of the hundreds that a small model waits for.

A graph replays kernels of fixed shapes. The rows of a step are always as many, the depth makes a graph of its own, and
the number of packed tokens is filled up with rows of padding, which nothing reads.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from latentloop.encoder import Thoughts
from latentloop.errors import InputError, one_line
from latentloop.replayable import replayable
from latentloop.thinking.everywhere import Everywhere, check_everywhere
from latentloop.thinking.input_stage import checked_history, embedded
from latentloop.thinking.packing import Packing

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["STEP", "GraphedThinking", "Thinking", "ThinkingEverywhere", "filled_up"]

STEP = 1024
"""Tokens are filled up to a multiple of this, or of a twenty-fourth to a twelfth of them where that is more."""
MOST = 128
"""Graphs of one model; their inputs and outputs each have memory of their own."""


class Thinking(nn.Module):
    """`Recommender.think` of packed tokens in shapes that a graph can keep: everything after the look-up of the items.

    Args:
        model: whose thoughts; both its blocks are packed.
        depth: k.
        rows: B, of the tokens' rows those that are wanted; behind them stand rows of padding.
        copies: G start states a row; H is computed once.
    """

    def __init__(self, model: Recommender, depth: int, rows: int, copies: int = 1) -> None:
        super().__init__()
        self.model, self.depth, self.rows, self.copies = model, depth, rows, copies

    def forward(
        self,
        looked_up: Float[Tensor, "tokens d"],
        slots: Int[Tensor, " tokens"],
        rows: Int[Tensor, " tokens"],
        offsets: Int[Tensor, " B1"],
        keys: Int[Tensor, " BG"],
    ) -> Float[Tensor, "k BG2 d"]:
        """The thoughts.

        Args:
            looked_up: each token's row of the item table.
            slots: its distance from the newest of its row.
            rows: its row.
            offsets: where each row starts.
            keys: what T_0 is drawn from, one for each copy of each row of padding too.
        """
        hidden, state, context = self.begin(looked_up, slots, rows, offsets, keys)
        steps = self.model.encoder.thoughts(hidden, state=state, depth=self.depth, **context).steps
        return steps[:, : self.rows * self.copies]

    def begin(
        self, looked_up: Tensor, slots: Tensor, rows: Tensor, offsets: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """H, T_0 and the blocks' context."""
        model = self.model
        # a tensor of its own, on which no layout of an earlier pass is kept
        context: dict[str, Any] = {"offsets": offsets.clone(), "max_length": model.max_length}
        hidden = model.encoder.pre(embedded(model, looked_up, slots), **context)
        if self.copies > 1:
            packing, source = Packing(slots, slots, rows, offsets, model.max_length).repeat(self.copies)
            hidden, slots, rows, context["offsets"] = hidden[source], packing.slots, packing.rows, packing.offsets
        return hidden, model.encoder.draw_state(keys[rows], slots).to(hidden.dtype), context


class ThinkingEverywhere(Thinking):
    """The same of `Recommender.think_everywhere`."""

    def forward(  # type: ignore[override]  # one result more
        self,
        looked_up: Float[Tensor, "tokens d"],
        slots: Int[Tensor, " tokens"],
        rows: Int[Tensor, " tokens"],
        offsets: Int[Tensor, " B1"],
        keys: Int[Tensor, " B"],
    ) -> tuple[Float[Tensor, "k B2 d"], Float[Tensor, "tokens d"]]:
        """The thoughts, and the last state of every token."""
        hidden, state, context = self.begin(looked_up, slots, rows, offsets, keys)
        encoder = check_everywhere(self.model.encoder)
        thoughts, states = encoder.everywhere(hidden, state=state, depth=self.depth, **context)
        return thoughts.steps[:, : self.rows], states


class GraphedThinking:
    """`Recommender.think` for training steps on CUDA, by a graph for each depth and filled-up number of tokens.

    Rows unlike the first call's are thought of as usual. Thoughts and gradients lie in memory that all graphs share: what
    one call gave is to be differentiated, once, before the next call.

    Args:
        model: whose thoughts; it `suits`.
    """

    def __init__(self, model: Recommender) -> None:
        self.model = model
        self.shape: torch.Size | None = None
        self.graphs: dict[tuple[object, ...], nn.Module] = {}
        self._pool = torch.cuda.graph_pool_handle()

    @staticmethod
    def suits(model: Recommender) -> bool:
        """Whether a model is on CUDA and `replayable`."""
        return model.device.type == "cuda" and replayable(model)

    def __call__(
        self, history: Int[Tensor, "B L"], *, depth: int, state_keys: Int[Tensor, " BG"], tokens: int, copies: int = 1
    ) -> Thoughts:
        """The thoughts, differentiable once, until the next call.

        Args:
            history: item ids, left-padded with 0.
            depth: k.
            state_keys: one a row and copy, from which T_0 is drawn.
            copies: G start states a history.
            tokens: real ones in the newest `max_length` columns of `history`, of a row without any one.

        Raises:
            InputError: for blocks that promise to be capturable and are not.
        """
        found = self._thought(Thinking, history, depth, state_keys, tokens, copies)
        if found is None:
            return self.model.think(history, depth=depth, state_keys=state_keys, copies=copies)
        return Thoughts(found[1])

    def everywhere(
        self, history: Int[Tensor, "B L"], *, depth: int, state_keys: Int[Tensor, " B"], tokens: int
    ) -> Everywhere:
        """The same of `Recommender.think_everywhere`; its packing may have rows of padding behind the batch's."""
        found = self._thought(ThinkingEverywhere, history, depth, state_keys, tokens)
        if found is None:
            return self.model.think_everywhere(history, depth=depth, state_keys=state_keys)
        packing, (steps, states) = found
        return Everywhere(Thoughts(steps), states, packing)

    def _thought(
        self, kind: type[Thinking], history: Tensor, depth: int, state_keys: Tensor, tokens: int, copies: int = 1
    ) -> tuple[Packing, Any] | None:
        history = checked_history(self.model, history)
        self.shape = self.shape or history.shape
        if history.shape != self.shape or history.shape[1] < 2 or torch.is_anomaly_enabled():
            return None
        packing, inputs = filled_up(self.model, history, state_keys, tokens, copies)
        return packing, self._graph(kind, depth, copies, inputs)(*inputs)

    def close(self) -> None:
        """Give the graphs' memory back."""
        for thinking in self.graphs.values():
            # torch's stand-in, which holds the graphs and is held by what it stands in for
            thinking.__dict__.pop("forward", None)
        self.graphs.clear()

    def _graph(self, kind: type[Thinking], depth: int, copies: int, inputs: tuple[Tensor, ...]) -> nn.Module:
        autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        weights = tuple((weight.data_ptr(), weight.requires_grad) for weight in self.model.parameters())
        shapes = tuple(value.shape for value in inputs)
        key = (kind, depth, copies, shapes, autocast, self.model.training, weights)
        if key not in self.graphs:
            assert self.shape is not None
            thinking, table = kind(self.model, depth, self.shape[0], copies), self.model.item_table.weight
            if len(self.graphs) >= MOST:
                return thinking  # the same kernels, launched one by one
            samples = (inputs[0].detach().clone().requires_grad_(table.requires_grad), *(v.clone() for v in inputs[1:]))
            try:
                # an older graph may not go while another is made; the draws of trial passes must not shift this step's
                with (
                    _no_collection(),
                    torch.enable_grad(),
                    torch.random.fork_rng(devices=[self.model.device]),
                    torch.autocast("cuda", dtype=autocast, enabled=autocast is not None, cache_enabled=False),
                ):
                    torch.cuda.make_graphed_callables(thinking, samples, allow_unused_input=True, pool=self._pool)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, AssertionError) as error:
                raise InputError(
                    "no CUDA graph can be made of the encoder, whose blocks and aggregate promise capturable = True: "
                    f"{one_line(error)}; set it to False on the class of the one that is not, or before the model is built"
                ) from error
            self.graphs[key] = thinking
        return self.graphs[key]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's collector waits."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def filled_up(
    model: Recommender, history: Int[Tensor, "B L"], state_keys: Int[Tensor, " BG"], tokens: int, copies: int = 1
) -> tuple[Packing, tuple[Tensor, ...]]:
    """A batch's tokens filled up, and what `Thinking` gets of them."""
    # some 1,024 for the 12,000 tokens of 1,024 rows and two views, which vary by 150
    step = max(STEP, 1 << (tokens // 12).bit_length() >> 1)
    fillers = -(-step // (history.shape[1] - 1))
    packing = Packing.filled(history, -(-(tokens + fillers) // step) * step, fillers)
    keys = torch.nn.functional.pad(state_keys, (0, fillers * copies))
    return packing, (model.item_table(packing.items), packing.slots, packing.rows, packing.offsets, keys)
