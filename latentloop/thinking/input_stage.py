"""The input stage: from item ids to what a loop starts from, H, T_0 and the blocks' context, packed or padded.

Positions are counted as slots: a position's distance from the newest, so that padding moves nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from latentloop.blocks.facts import facts
from latentloop.errors import InputError, InputTypeError
from latentloop.modes.exporting import exporting
from latentloop.randomness import row_keys
from latentloop.thinking.packing import Packing

if TYPE_CHECKING:
    from latentloop.recommender import Recommender

__all__ = ["begin", "checked_history", "embedded"]

_Begun = tuple[Tensor, Tensor, dict[str, Any]]


def checked_history(model: Recommender, history: Int[Tensor, "B L"]) -> Int[Tensor, "B L2"]:
    """The newest `max_length` item ids, int64.

    Raises:
        InputTypeError: for anything but a tensor.
        InputError: for another shape or type; on a CPU also for an id outside 0..N among the newest `max_length`, and
            an item, read or not, with padding after it.
    """
    if not isinstance(history, Tensor):
        raise InputTypeError(
            f"history must be a (B, L) tensor of item numbers, got {type(history).__name__}: `recommend` takes histories "
            "in original ids"
        )
    if history.ndim != 2 or history.shape[1] < 1 or history.dtype not in (torch.int64, torch.int32):
        raise InputError(
            f"history must be (B, L) whole numbers with L >= 1, got {tuple(history.shape)} {history.dtype}"
        )
    whole, history = history, history[:, -model.max_length :].long()
    # on an accelerator the look-up would cost a synchronisation, and the embedding checks ids there itself
    if history.device.type == "cpu" and history.numel() and not exporting():
        low, high = int(history.min()), int(history.max())
        if low < 0 or high > model.num_items:
            raise InputError(f"history must hold item ids 0..{model.num_items}, found {low if low < 0 else high}")
        # of the whole row: padding on the right may be all that is left of one
        holes = ((whole[:, :-1] != 0) & (whole[:, 1:] == 0)).any(1)
        if bool(holes.any()):
            row = int(holes.nonzero()[0])
            raise InputError(f"history must be left-padded, newest item last: row {row} has a 0 after an item")
    return history


def begin(
    model: Recommender,
    history: Int[Tensor, "B L"],
    state: Float[Tensor, "BG L d"] | None,
    state_keys: Int[Tensor, " BG"] | None,
    copies: int,
) -> _Begun:
    """H, T_0 and the blocks' context, packed where the core-block is; the arguments are those of `Recommender.think`.

    Raises:
        InputError: for a state or keys of the wrong shape, or both of them.
    """
    wanted = (history.shape[0] * copies, history.shape[1], model.dim)
    if state is not None and state_keys is not None:
        raise InputError("state and state_keys both say what T_0 is: give one of them")
    if state is not None and state.shape != wanted:
        raise InputError(f"state must be {wanted} (rows x copies, length, dim), got {tuple(state.shape)}")
    if state_keys is not None and state_keys.shape != wanted[:1]:
        raise InputError(f"state_keys must be {wanted[:1]} (rows x copies), got {tuple(state_keys.shape)}")
    if state_keys is not None and (state_keys.is_floating_point() or state_keys.dtype == torch.bool):
        raise InputError(f"state_keys must be whole numbers, such as row_keys(key, rows), got {state_keys.dtype}")
    # how many tokens are real is known when the graph runs, not when it is made
    layout = _begin_packed if model.encoder.packed_core and not exporting() else _begin_padded
    hidden, start, context = layout(model, history, state, state_keys, copies)
    return hidden, start.to(hidden.dtype), context


def _begin_packed(
    model: Recommender, history: Tensor, state: Tensor | None, state_keys: Tensor | None, copies: int
) -> _Begun:
    packing = Packing.of(history)
    context: dict[str, Any] = {"offsets": packing.offsets, "max_length": packing.max_length}
    if model.encoder.packed:
        hidden = model.encoder.pre(_embed(model, packing.items, packing.slots), **context)
    else:
        padded, _ = _pre_padded(model, history)
        hidden = padded[packing.rows, padded.shape[1] - 1 - packing.slots]
    if copies > 1:
        packing, source = packing.repeat(copies)
        hidden = hidden[source]
        context["offsets"] = packing.offsets
    if state is None:
        start = _start(model, packing.slots, packing.rows, state_keys)
    else:
        start = state[packing.rows, history.shape[1] - 1 - packing.slots]
    return hidden, start, context


def _begin_padded(
    model: Recommender, history: Tensor, state: Tensor | None, state_keys: Tensor | None, copies: int
) -> _Begun:
    hidden, history = _pre_padded(model, history)
    if state is not None:
        state = nn.functional.pad(state, (0, 0, hidden.shape[1] - state.shape[1], 0))
    if copies > 1:
        hidden = hidden.repeat_interleave(copies, 0)
        history = history.repeat_interleave(copies, 0)
    if state is None:
        rows = torch.arange(history.shape[0], device=history.device)[:, None].expand(history.shape)
        slots = _slots(history).flatten()
        state = _start(model, slots, rows.flatten(), state_keys).unflatten(0, history.shape)
    return hidden, state, _padded_context(history)


def _pre_padded(model: Recommender, history: Tensor) -> tuple[Tensor, Tensor]:
    """H of padded rows, and the rows: made longer where a block needs it, or would answer differently."""
    any_length = facts(model.encoder).pad_invariant and not model.encoder.fixed_length
    if history.shape[1] < model.max_length and not any_length:
        history = nn.functional.pad(history, (model.max_length - history.shape[1], 0))
    return model.encoder.pre(_embed(model, history, _slots(history)), **_padded_context(history)), history


def _embed(model: Recommender, items: Tensor, slots: Tensor) -> Tensor:
    return embedded(model, model.item_table(items), slots)


def embedded(model: Recommender, looked_up: Float[Tensor, "*n d"], slots: Int[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
    """What the encoder gets of items that were looked up in the table."""
    placed = looked_up + nn.functional.embedding(model.max_length - 1 - slots, model.position_table)
    dropped: Tensor = model.input_dropout(model.input_norm(placed))
    return dropped


def _start(model: Recommender, slots: Tensor, rows: Tensor, state_keys: Tensor | None) -> Tensor:
    """T_0 for each (row, slot)."""
    if state_keys is not None:
        return model.encoder.draw_state(state_keys[rows], slots)
    if model.inference_state == "fresh" and model.inference_noise.shape[1]:
        if exporting():  # the draw would become a constant, the same at each call
            raise InputError(
                "inference_state 'fresh' draws T_0 at each call, which an exported graph cannot: set "
                "model.inference_state = 'shared' or 'zero' before the export"
            )
        key = int(torch.randint(1 << 62, ()))
        return model.encoder.draw_state(row_keys(key, rows), slots)
    noise = model.inference_noise[slots]
    return torch.zeros_like(noise) if model.inference_state == "zero" else noise


def _slots(history: Tensor) -> Tensor:
    return torch.arange(history.shape[1] - 1, -1, -1, device=history.device).expand(history.shape)


def _padded_context(history: Tensor) -> dict[str, Any]:
    padding_mask = history == 0
    padding_mask[:, -1] = False  # a row without items still gets an answer
    # a block may write into what it is given, and the history is the caller's
    return {"padding_mask": padding_mask, "lengths": (~padding_mask).sum(1), "history": history.clone()}
