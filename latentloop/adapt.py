"""Any module as a block: (B, L, d) in, (B, L, d) out, rows left-padded, newest position last.

    encoder = RecurrentDepth(pre_block=nn.GRU(64, 64, batch_first=True), core_block=MyModule(64))

A module's signature is read once, at construction. It is called with x and, of the context, with what it names:

    padding_mask, src_key_padding_mask, key_padding_mask    (B, L) bool, True = padding
    attention_mask                                          (B, L) int64, 1 = keep
    lengths (B,); history (B, L); offsets (B + 1,); max_length int; or all of these by **context
    step int                                                0 at the first thought of a core-block, and elsewhere

A module of (x, lengths) may want rows that start with their oldest token: see `blocks.layout_trial`.
"""

from __future__ import annotations

import copy
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from latentloop.blocks.calls import WAY_OUT, Call, PlainCall, RecurrentCall, TransformerCall
from latentloop.blocks.context import Context, context_of
from latentloop.blocks.fact_trial import try_facts
from latentloop.blocks.facts import Facts, facts, made_here
from latentloop.blocks.layout_trial import try_layout
from latentloop.blocks.padding_trial import Remedy, aside, try_padding
from latentloop.blocks.way_to_call import plain_call, way_to_call
from latentloop.errors import InputError, InputTypeError
from latentloop.modes.dropout import evaluating

__all__ = ["Adapted", "Block", "adapt", "adapt_both"]


@runtime_checkable
class Block(Protocol):
    """The contract of pre- and core-blocks; `adapt` makes one of any module."""

    def __call__(
        self,
        x: Float[Tensor, "*n d"],
        *,
        padding_mask: Bool[Tensor, "B L"] | None = None,
        lengths: Int[Tensor, " B"] | None = None,
        history: Int[Tensor, "B L"] | None = None,
        offsets: Int[Tensor, " B1"] | None = None,
        max_length: int | None = None,
        step: int = 0,
    ) -> Float[Tensor, "*n d"]:
        """Hidden states shaped like x."""
        ...


class Adapted(nn.Module):
    """A module behind the block contract; made by `adapt`.

    Its parameters stand under `module.` in the state dict. Facts are the module's own declarations and what the way
    of calling makes true; `packed` is only ever the module's own.

    Args:
        module: the wrapped module.
        call: how it is called.
    """

    _may_turn = True

    def __init__(self, module: nn.Module, call: Call) -> None:
        super().__init__()
        self.module = module
        self.call = call
        self._own = made_here(module)
        untried = isinstance(call, PlainCall) and not self._own
        self._remedy: Remedy | None = None if untried else Remedy()
        declared = facts(module)
        self._facts = Facts(
            causal=declared.causal or call.facts.causal,
            pad_invariant=declared.pad_invariant or call.facts.pad_invariant,
            fixed_length=declared.fixed_length,
            packed=declared.packed and call.takes_packed,
            capturable=declared.capturable and declared.packed and call.takes_packed,
        )

    @property
    def dim(self) -> int | None:
        """d, where the module says it."""
        return self.call.dim

    @property
    def causal(self) -> bool:
        """A position never sees later ones."""
        return self._facts.causal

    @property
    def pad_invariant(self) -> bool:
        """Extra left padding changes nothing."""
        return self._facts.pad_invariant

    @property
    def fixed_length(self) -> bool:
        """Rows must have exactly `max_length` positions."""
        return self._facts.fixed_length

    @property
    def packed(self) -> bool:
        """It also takes (tokens, d) with `offsets`."""
        return self._facts.packed

    @property
    def capturable(self) -> bool:
        """A CUDA graph may replay its pass over packed tokens."""
        return self._facts.capturable

    def forward(
        self,
        x: Float[Tensor, "*n d"],
        *,
        padding_mask: Bool[Tensor, "B L"] | None = None,
        lengths: Int[Tensor, " B"] | None = None,
        history: Int[Tensor, "B L"] | None = None,
        offsets: Int[Tensor, " B1"] | None = None,
        max_length: int | None = None,
        step: int = 0,
    ) -> Float[Tensor, "*n d"]:
        """The module's hidden states, zero at padded positions.

        Args:
            x: (B, L, d), or (tokens, d) with `offsets`.
            padding_mask: True = padding, which lies left; worked out from `lengths` or `history` where it is None.
            lengths: real positions of each row; 0 is allowed.
            history: item ids, 0 = padding.
            offsets: where each row of packed tokens starts, and the end.
            max_length: the longest row of packed tokens.
            step: how many thoughts came before, for a core-block.

        Raises:
            InputError: for a size that does not fit the module or the context, an output not shaped like x, or one that
            padding makes NaN, see `blocks.padding_trial`.
        """
        padding, context = context_of(x, padding_mask, lengths, history, offsets, max_length, step)
        self._check(x, packed=offsets is not None)
        if not x.shape[0]:  # no rows: an RNN, a transform, many a reshape would fail
            return x
        remedy = self._tried(x, context)
        with remedy.around():
            output = self.call(self.module, remedy.input(x, padding), context)
        if output.shape != x.shape:
            raise InputError(
                f"{type(self.module).__name__} must return {tuple(x.shape)} like its input, got {tuple(output.shape)}: "
                f"{WAY_OUT}"
            )
        return output if padding is None else output.masked_fill(padding[..., None], 0.0)

    def try_out(self, dim: int, length: int, *, zeros: bool = False) -> None:
        """Run one row as soon as its size is known, so that what cannot be a block fails before anything is trained.

        Random draws are given back. A module that fails here in its own code, because it only runs elsewhere perhaps,
        is left for its first call to tell.

        Args:
            dim: d.
            length: L.
            zeros: whether zeros are what it finds at padded positions.

        Raises:
            InputError: for an output not shaped like x, one that padding makes NaN, see `blocks.padding_trial`, or a
                declared fact that does not hold, see `blocks.fact_trial`.
            InputTypeError: for an output without hidden states.
        """
        if self._own or self.call.takes_packed or isinstance(self.call, RecurrentCall | TransformerCall):
            return
        weight = next(filter(Tensor.is_floating_point, self.module.parameters()), torch.empty(0))
        if zeros and isinstance(self.call, PlainCall):  # whatever was found of another place in a model
            self._remedy = None
        untried = self._remedy
        with aside(self.module, weight.device), torch.no_grad():
            try:
                x = torch.randn(1, length, dim, device=weight.device, dtype=weight.dtype)
                history = (torch.arange(length, device=weight.device)[None] >= length // 2).long()
                given = x.masked_fill(history[..., None] == 0, 0.0) if zeros else x
                told = bool(self(given, history=history).isfinite().all())  # weights may be loaded only later
                if told and length - length // 2 >= 2:
                    with evaluating(self):  # a batch norm that learns mixes positions by design
                        try_facts(type(self.module).__name__, self._on_row, self._facts, x, history)
            except (InputError, InputTypeError):
                raise
            except Exception:
                told = False
        if not told:
            self._remedy = untried

    def _on_row(self, x: Tensor, history: Tensor) -> Tensor:
        return self(x, history=history)  # type: ignore[no-any-return]  # torch types no call

    def _tried(self, x: Tensor, context: Context) -> Remedy:
        """What the module needs under left padding, found out at its first call with any."""
        if self._remedy is None:
            if context.padding_mask is None or x.shape[1] < 2 or torch.compiler.is_compiling():
                return Remedy()
            if isinstance(self.call, PlainCall) and self.call.told_of_lengths_alone and self._may_turn:
                self.call = try_layout(self.module, self.call, x)
            self._remedy = try_padding(self.module, self.call, x)
        return self._remedy

    def _check(self, x: Tensor, *, packed: bool) -> None:
        name = type(self.module).__name__
        if packed and not self.call.takes_packed:
            raise InputError(f"{name} takes no packed tokens: give it (B, L, d) rows, without offsets")
        if self.dim is not None and x.shape[-1] != self.dim:
            raise InputError(f"{name} is made for d = {self.dim}, got x {tuple(x.shape)}")


class _AdaptedWithLast(Adapted):
    """A block whose module can answer for the newest position only: it knows the contract, and where the newest is."""

    _may_turn = False

    def __init__(self, module: nn.Module, call: Call, last_call: PlainCall) -> None:
        super().__init__(module, call)
        self._last_call = last_call

    def last(
        self,
        x: Float[Tensor, "*n d"],
        *,
        padding_mask: Bool[Tensor, "B L"] | None = None,
        lengths: Int[Tensor, " B"] | None = None,
        history: Int[Tensor, "B L"] | None = None,
        offsets: Int[Tensor, " B1"] | None = None,
        max_length: int | None = None,
        step: int = 0,
    ) -> Float[Tensor, "B d"]:
        """The newest position's output: what `forward` has there, for less work."""
        padding, context = context_of(x, padding_mask, lengths, history, offsets, max_length, step)
        self._check(x, packed=offsets is not None)
        if not x.shape[0]:
            return x if offsets is not None else x[:, -1]
        remedy = self._tried(x, context)
        with remedy.around():
            last = cast(Any, self.module).last
            output = self._last_call.through(self.module, last, remedy.input(x, padding), context)
        rows = x.shape[0] if offsets is None else offsets.shape[0] - 1
        if output.shape != (rows, x.shape[-1]):
            raise InputError(
                f"{type(self.module).__name__}.last must return {(rows, x.shape[-1])}, got {tuple(output.shape)}"
            )
        return output if padding is None else output.masked_fill(padding[:, -1:], 0.0)


def adapt(module: nn.Module, *, causal: bool = False) -> Adapted:
    """Make any module a block; an adapted one is returned as it is.

    Args:
        module: torch's RNNs and transformer encoders, a Hugging Face model that takes `inputs_embeds`, or any module
            whose first argument is x and which returns hidden states (a tensor, a tuple that starts with one, or
            `last_hidden_state`).
        causal: hand it a causal mask, where it takes one.

    Raises:
        InputTypeError: for what cannot be adapted; the message says how to wrap it by hand.
        InputError: for a module whose sizes show that it does not keep d.
    """
    if not isinstance(module, nn.Module):
        raise InputTypeError(f"module must be an nn.Module, got {type(module).__name__}: {WAY_OUT}")
    if isinstance(module, Adapted):
        if causal and not module.causal:
            raise InputTypeError("module was adapted without causal=True already: adapt the module that it wraps")
        return module
    call = way_to_call(module, causal=causal)
    # on the type, because a layer that is called `last` is not the method of the contract
    if isinstance(call, PlainCall) and not causal and callable(getattr(type(module), "last", None)):
        return _AdaptedWithLast(module, call, plain_call(module, cast(Any, module).last))
    return Adapted(module, call)


def adapt_both(pre_block: nn.Module, core_block: nn.Module | Literal["copy"]) -> tuple[Adapted, Adapted]:
    """Make a pre-block and a core-block of any two modules, of one module twice, or of one and a copy of it.

    Args:
        pre_block: any module that `adapt` understands.
        core_block: another, the same one (shared weights), or "copy": a deep copy of `pre_block`, made now.

    Raises:
        InputError: for a core-block that is another text.
        InputTypeError: for a block that cannot be adapted.
    """
    if isinstance(core_block, str) and core_block != "copy":
        raise InputError(f'core_block must be a module or "copy", got {core_block!r}')
    return adapt(pre_block), adapt(copy.deepcopy(pre_block) if isinstance(core_block, str) else core_block)
