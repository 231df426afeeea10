"""`Recommender`: item table, input stage, encoder and scorer; histories in, thoughts, scores and recommendations out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from latentloop.adapt import Adapted
from latentloop.blocks.unseen import refuse_unseen_weights
from latentloop.checks import as_deep, at_least, dropout_rate, zero_or_more
from latentloop.depth import DepthLaw
from latentloop.encoder import Encoder, Thoughts
from latentloop.errors import InputError, InputTypeError
from latentloop.items.ids import ItemId, ItemIds
from latentloop.modes.quick_dropout import QuickDropout
from latentloop.per_step import PerStep
from latentloop.randomness import fold, row_keys
from latentloop.recurrence import RecurrentDepth
from latentloop.saving.encoder_settings import encoder_settings, scorer_settings
from latentloop.saving.pretrained import Pretrained
from latentloop.scoring import Scorer, build_scorer, check_keys, check_queries
from latentloop.single_pass import SinglePass
from latentloop.stacked import Stacked
from latentloop.thinking.everywhere import Everywhere, check_everywhere
from latentloop.thinking.input_stage import begin, checked_history
from latentloop.thinking.packing import Packing

if TYPE_CHECKING:
    from latentloop.data.interactions import Interactions
    from latentloop.data.splits import Split
    from latentloop.items.bonus import Bonus
    from latentloop.recommend import Recommendations

__all__ = ["InferenceState", "Recommender"]

InferenceState = Literal["shared", "fresh", "zero"]


class Recommender(nn.Module, Pretrained):
    """A sequential recommender around any encoder.

    Args:
        num_items: N, the number of items; their ids are 1..N and 0 is padding.
        encoder: a `RecurrentDepth`, or any block, which then gives one thought ("Base").
        dim: d.
        max_length: L, the most recent items that are read.
        dropout: probability on the embedded history.
        scorer: "dot", "cosine" or an object with `queries` and `keys`.
        inference_state: what T_0 is when none is given: "shared" is one saved draw for all rows, by distance from the
            newest item; "fresh" draws anew at each call; "zero" is zeros.
        init_std: standard deviation of the item and position tables at the start.
        item_ids: original ids of items 1..N, for `recommend`.
        seed: of the saved draw of T_0.

    Raises:
        InputError: for a value out of range, or a block that gives another shape than it takes.
        InputTypeError: for an encoder or scorer of the wrong kind.
    """

    inference_noise: Tensor

    def __init__(
        self,
        num_items: int,
        encoder: nn.Module,
        dim: int = 64,
        max_length: int = 20,
        *,
        dropout: float = 0.5,
        scorer: str | Scorer = "dot",
        inference_state: InferenceState = "shared",
        init_std: float = 0.02,
        item_ids: Sequence[ItemId] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        num_items = at_least("num_items", num_items, 1)
        dim, max_length = at_least("dim", dim, 1), at_least("max_length", max_length, 1)
        dropout, init_std = dropout_rate(dropout), zero_or_more("init_std", init_std)
        self.inference_state = inference_state
        if not isinstance(encoder, nn.Module):
            raise InputTypeError(f"encoder must be a torch module, got {type(encoder).__name__}")
        self.num_items, self.dim, self.max_length = num_items, dim, max_length
        self.encoder: Encoder = encoder if isinstance(encoder, Encoder) else SinglePass(encoder)
        self.encoder.bind(dim)
        _try_out(self.encoder, dim, max_length)
        self.built_with = encoder_settings(self.encoder)
        self.scorer = build_scorer(scorer)
        self.scored_with = scorer_settings(self.scorer)
        self.init_std = init_std
        self.item_table = nn.Embedding(num_items + 1, dim, padding_idx=0)
        self.position_table = nn.Parameter(torch.empty(max_length, dim))
        self.input_norm = nn.LayerNorm(dim)
        self.input_dropout = QuickDropout(dropout)
        slots = torch.arange(max_length)
        noise = self.encoder.draw_state(row_keys(fold(seed, "inference state"), torch.zeros_like(slots)), slots)
        self.register_buffer("inference_noise", noise)
        with torch.no_grad():
            nn.init.normal_(self.item_table.weight, std=init_std)
            self.item_table.weight[0] = 0
            nn.init.normal_(self.position_table, std=init_std)
        refuse_unseen_weights(self, self.scorer)
        self.item_ids = item_ids

    @property
    def item_ids(self) -> ItemIds | None:
        """Original ids of items 1..N, or None where they were never given."""
        return self._item_ids

    @item_ids.setter
    def item_ids(self, ids: Iterable[ItemId] | None) -> None:
        table = None if ids is None else ItemIds(ids)
        if table is not None and len(table) != self.num_items:
            raise InputError(f"item_ids must hold {self.num_items} ids, one an item, got {len(table)}")
        self._item_ids = table

    @property
    def inference_state(self) -> InferenceState:
        """What T_0 is where nobody gives one."""
        return self._inference_state

    @inference_state.setter
    def inference_state(self, state: InferenceState) -> None:
        if state not in get_args(InferenceState):
            raise InputError(f"inference_state must be 'shared', 'fresh' or 'zero', got {state!r}")
        self._inference_state = state

    @property
    def depth_law(self) -> DepthLaw:
        """What training draws the depth from."""
        return self.encoder.depth_law

    @property
    def inference_depth(self) -> int:
        """The depth of an answer when none is asked for: k-bar + 1, or 1 without a loop."""
        return self.encoder.depth_law.inference_depth

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.position_table.device

    def think(
        self,
        history: Int[Tensor, "B L"],
        *,
        depth: int | None = None,
        state: Float[Tensor, "BG L d"] | None = None,
        state_keys: Int[Tensor, " BG"] | None = None,
        copies: int = 1,
    ) -> Thoughts:
        """Read histories and think: (k, B, d) thoughts of the newest position.

        Where the core-block is packed, it computes real tokens only, and so does a packed pre-block before it; the
        result is the same.

        Args:
            history: (B, L) item ids, left-padded with 0; of longer ones the newest `max_length` are read.
            depth: k; None is the inference depth.
            state: T_0, (B * copies, L, d); None is the inference state.
            state_keys: instead of `state`, one key a row (see `randomness.row_keys`) from which T_0 is drawn.
            copies: G start states a history: row b's thoughts are at b * G .. b * G + G - 1; H is computed once.

        Raises:
            InputError: for a depth or copies below 1, an item id outside 0..N, a state or keys of the wrong shape, or
                both of them.
        """
        depth = self.inference_depth if depth is None else as_deep("depth", depth)
        copies = at_least("copies", copies, 1)
        hidden, start, context = begin(self, checked_history(self, history), state, state_keys, copies)
        return self.encoder.thoughts(hidden, state=start, depth=depth, **context)

    def think_everywhere(
        self,
        history: Int[Tensor, "B L"],
        *,
        depth: int | None = None,
        state: Float[Tensor, "B L d"] | None = None,
        state_keys: Int[Tensor, " B"] | None = None,
    ) -> Everywhere:
        """`think`, and beside it the last state of every position: the answer to each prefix of each history.

        Naive equivalent: `think` of every prefix, each item keeping the position and the T_0 that it has in the whole
        row (in a row of its own the prefix would move up, and its newest item stand at the newest position).

        Args:
            history: (B, L) item ids, left-padded with 0; of longer ones the newest `max_length` are read.
            depth: k; None is the inference depth.
            state: T_0, (B, L, d); None is the inference state.
            state_keys: instead of `state`, one key a row from which T_0 is drawn.

        Raises:
            InputError: for an encoder that does not declare itself causal and pad-invariant, and as `think`.
        """
        encoder = check_everywhere(self.encoder)
        depth = self.inference_depth if depth is None else as_deep("depth", depth)
        history = checked_history(self, history)
        hidden, start, context = begin(self, history, state, state_keys, 1)
        thoughts, states = encoder.everywhere(hidden, state=start, depth=depth, **context)
        packing = Packing.of(history)
        if "offsets" not in context:
            states = states[packing.rows, states.shape[1] - 1 - packing.slots]
        return Everywhere(thoughts, states, packing)

    def encode(self, history: Int[Tensor, "B L"], *, depth: int | None = None) -> Float[Tensor, "B d"]:
        """A vector for each user: the last thought, ready for an inner product with `keys()`."""
        return self.queries(self.think(history, depth=depth).final)

    def queries(self, thoughts: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Thoughts as the scorer wants them: score(thought, item i) = queries(thought) . keys()[i - 1].

        Raises:
            InputError: where a scorer of one's own gives no query a thought.
            InputTypeError: where it gives no tensor of real numbers.
        """
        return check_queries(self.scorer, self.scorer.queries(thoughts), thoughts)

    def keys(self) -> Float[Tensor, "N d"]:
        """Items 1..N as the scorer wants them; the padding row is not among them.

        Raises:
            InputError: where a scorer of one's own gives no key an item.
            InputTypeError: where it gives no tensor of real numbers.
        """
        return check_keys(self.scorer, self.scorer.keys(self.item_table.weight[1:]), self.num_items)

    def score(self, history: Int[Tensor, "B L"], *, depth: int | None = None) -> Float[Tensor, "B N"]:
        """Scores of all items for a few histories: column i - 1 is item i. For many, use `recommend` or `evaluate`."""
        queries, keys = self.encode(history, depth=depth), self.keys()
        with torch.autocast(queries.device.type, enabled=False):  # ranks need float32 even under bf16
            wide = torch.promote_types(queries.dtype, torch.float32)
            return queries.to(wide) @ keys.to(wide).T

    def recommend(
        self,
        histories: Sequence[Sequence[ItemId]] | Int[Tensor, "B L"] | None = None,
        *,
        users: Sequence[ItemId] | None = None,
        data: Interactions | Split | None = None,
        k: int = 10,
        depth: int | None = None,
        exclude_history: bool = True,
        allow: Sequence[ItemId] | None = None,
        deny: Sequence[ItemId] | None = None,
        strict: bool = False,
        batch_size: int = 1024,
        bonus: Bonus | None = None,
    ) -> Recommendations:
        """The k best items for each history or known user, in original ids.

        Args:
            histories: raw item ids of each user, oldest first, any lengths; or (B, L) internal ids, left-padded.
            users: instead, original ids of users of `data`.
            data: the interactions (or a split of them) in which `users` are looked up.
            k: how many, at most N; fewer come back where fewer candidates are left.
            depth: thoughts before the answer; None is the inference depth.
            exclude_history: leave out what the user already has.
            allow: only these items.
            deny: never these items.
            strict: an unknown item is an error instead of a warning.
            batch_size: histories at a time; memory does not grow with users x items, but with what a bonus returns for so
                many.
            bonus: what is added to the scores of some items of each history, such as `Followers`.

        Raises:
            InputError: for k outside 1..N, an unknown user, no history or user at all, or (strict) an unknown item.
        """
        from latentloop.recommend import recommend

        return recommend(
            self,
            histories,
            users=users,
            data=data,
            k=k,
            depth=depth,
            exclude_history=exclude_history,
            allow=allow,
            deny=deny,
            strict=strict,
            batch_size=batch_size,
            bonus=bonus,
        )

    def forward(self, history: Int[Tensor, "B L"], depth: int | None = None) -> Float[Tensor, "B d"]:
        """The same as `encode`."""
        return self.encode(history, depth=depth)


def _try_out(encoder: Any, dim: int, max_length: int, *, zeros: bool = False) -> None:
    """Each block of the encoders that are made of adapted ones; `zeros` is what the first finds at padded positions."""
    blocks = [(getattr(encoder, "pre_block", getattr(encoder, "block", None)), zeros)]
    if isinstance(encoder, PerStep):
        blocks = [(block, zeros) for block in encoder.blocks]
    elif isinstance(encoder, Stacked):
        blocks.append((encoder.core_block, isinstance(encoder.pre_block, Adapted)))
    elif hasattr(encoder, "core_block"):
        blocks.append((encoder.core_block, type(encoder) is RecurrentDepth and encoder.zeros_at_padding))
    for block, finds_zeros in blocks:
        if isinstance(block, Adapted) and isinstance(block.module, Stacked | PerStep):
            _try_out(block.module, dim, max_length, zeros=finds_zeros)
        elif isinstance(block, Adapted):
            block.try_out(dim, max_length, zeros=finds_zeros)
