"""How each kind of module is called on left-padded rows (B, L, d), newest position last.

Each is chosen once, by `way_to_call`:

    RecurrentCall    nn.RNN, nn.GRU, nn.LSTM        packed sequences: padding is never read
    TransformerCall  nn.TransformerEncoder(Layer)   rows turned oldest first, where causality already hides padding
    EmbedsCall       forward(inputs_embeds=...)     rows turned oldest first, so that positions count real tokens
    PlainCall        anything else                  rows as they are, and of the context what the signature names
    TurnedCall       a PlainCall by (x, lengths)    rows turned oldest first, where `layout_trial` found that it counts so
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from latentloop.blocks.context import Context
from latentloop.blocks.facts import Facts
from latentloop.blocks.safe_attention import safe_attention
from latentloop.errors import InputError, InputTypeError

__all__ = [
    "PADDING_NAMES",
    "WAY_OUT",
    "Call",
    "EmbedsCall",
    "PlainCall",
    "RecurrentCall",
    "TransformerCall",
    "TurnedCall",
    "hidden_states",
]

PADDING_NAMES = ("padding_mask", "src_key_padding_mask", "key_padding_mask")  # True = padding
WAY_OUT = "wrap it in a module with forward(self, x, *, padding_mask=None) that returns a tensor shaped like x"


@runtime_checkable
class Call(Protocol):
    """One way to call a module; `dim` and `facts` are what is known of it before the first call."""

    @property
    def dim(self) -> int | None:
        """d, where the module says it."""
        ...

    @property
    def facts(self) -> Facts:
        """What this way of calling makes true, whatever the module declares."""
        ...

    @property
    def takes_packed(self) -> bool:
        """Whether x may be packed tokens (tokens, d)."""
        ...

    def __call__(self, module: nn.Module, x: Tensor, context: Context) -> Tensor:
        """The module's hidden states, shaped like x if the module does as it should."""
        ...


@dataclass(frozen=True)
class RecurrentCall:
    """An RNN over packed sequences, whichever of its first two dimensions it takes for the batch."""

    dim: int
    facts: Facts
    takes_packed: ClassVar[bool] = False

    def __call__(self, module: nn.Module, x: Float[Tensor, "B L d"], context: Context) -> Float[Tensor, "B L c"]:
        """Pack, run, unpack; padded positions are zero."""
        rows, length = x.shape[:2]
        lengths = context.lengths
        if lengths is None:
            lengths = torch.full((rows,), length, device=x.device)
        turn = _Turn(lengths, length)
        if getattr(torch.compiler, "is_exporting", bool)():  # torch 2.6 does not tell it from compiling
            return turn.back(self._padded(module, turn(x)))
        packed = pack_padded_sequence(turn(x), lengths.cpu(), batch_first=True, enforce_sorted=False)
        unpacked, _ = pad_packed_sequence(module(packed)[0], batch_first=True, total_length=length)
        return turn.back(unpacked)

    def _padded(self, module: nn.Module, turned: Tensor) -> Tensor:
        """What `torch.export` can follow: padding comes last, where it reaches no real position of one direction."""
        if module.bidirectional:
            raise InputError(
                f"torch.export cannot follow a bidirectional {type(module).__name__}, which needs packed sequences: "
                "torch.jit.trace can"
            )
        read: Tensor = module(turned if module.batch_first else turned.transpose(0, 1))[0]
        return read if module.batch_first else read.transpose(0, 1)


@dataclass(frozen=True)
class TransformerCall:
    """Torch's encoder: position-free, so turning a row changes nothing but what a causal mask has to hide."""

    dim: int
    facts: Facts
    mask_name: str
    batch_first: bool
    takes_packed: ClassVar[bool] = False

    def __call__(self, module: nn.Module, x: Float[Tensor, "B L d"], context: Context) -> Float[Tensor, "B L d"]:
        """Real positions look at real (and, causal, older) positions only."""
        if context.padding_mask is None or context.lengths is None:
            return self._run(module, x, None)
        turn = _Turn(context.lengths, x.shape[1])
        return turn.back(self._run(module, turn(x), turn(context.padding_mask)))

    def _run(self, module: nn.Module, x: Tensor, padding: Tensor | None) -> Tensor:
        masks: dict[str, Any]
        if self.facts.causal:  # padding follows the real tokens, none of which looks ahead
            masks = {self.mask_name: _causal_mask(x.shape[1], x.device), "is_causal": True}
        else:
            masks = {"src_key_padding_mask": padding}
        # without a mask torch's fast path goes by nested tensors, a prototype that is no faster here
        nested = padding is not None and not self.facts.causal and not torch.compiler.is_compiling()
        with safe_attention() if nested else nullcontext():
            read: Tensor = module(x if self.batch_first else x.transpose(0, 1), **masks)
        return read if self.batch_first else read.transpose(0, 1)


@dataclass(frozen=True)
class EmbedsCall:
    """Hugging Face's convention: `inputs_embeds`, `attention_mask` 1 = keep, `use_cache=False`."""

    dim: int | None
    facts: Facts
    names: frozenset[str]
    takes_packed: ClassVar[bool] = False

    def __call__(self, module: nn.Module, x: Float[Tensor, "B L d"], context: Context) -> Float[Tensor, "B L d"]:
        """Turned oldest first, a row's positions are 0, 1, ... in every family, asked for by name or not."""
        arguments: dict[str, Any] = {"use_cache": False} if "use_cache" in self.names else {}
        if "step" in self.names:
            arguments["step"] = context.step
        if context.padding_mask is None or context.lengths is None:
            return hidden_states(module, module(inputs_embeds=x, **arguments))
        turn = _Turn(context.lengths, x.shape[1])
        if "attention_mask" in self.names:
            arguments["attention_mask"] = (~turn(context.padding_mask)).long()
        return turn.back(hidden_states(module, module(inputs_embeds=turn(x), **arguments)))


@dataclass(frozen=True)
class PlainCall:
    """x first, then of the context what the signature names."""

    dim: int | None
    facts: Facts
    names: frozenset[str]  # of the context, what it takes
    needs: frozenset[str]  # of those, what it cannot do without
    takes_packed: bool
    causal_name: str | None = None
    guarded: bool = False  # torch's attention modules work inside

    @property
    def told_of_lengths_alone(self) -> bool:
        """Whether lengths are all that it takes of the padding: they do not say on which side it lies."""
        return "lengths" in self.names and self.names.isdisjoint((*PADDING_NAMES, "attention_mask", "history"))

    def __call__(self, module: nn.Module, x: Tensor, context: Context) -> Tensor:
        """Call `module` itself."""
        return self.through(module, module, x, context)

    def through(self, module: nn.Module, function: Callable[..., Any], x: Tensor, context: Context) -> Tensor:
        """Call `function`, a method of `module` with the signature that was read."""
        with safe_attention() if self.guarded else nullcontext():
            return hidden_states(module, function(x, **self._arguments(module, x, context)))

    def _arguments(self, module: nn.Module, x: Tensor, context: Context) -> dict[str, Any]:
        padding, lengths = context.padding_mask, context.lengths
        if context.offsets is None:  # nothing padded: an optional argument stays away, a needed one says so
            if padding is None and self.needs.intersection((*PADDING_NAMES, "attention_mask")):
                padding = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
            if lengths is None and "lengths" in self.needs:
                lengths = torch.full(x.shape[:1], x.shape[1], device=x.device)
        known: dict[str, Any] = dict.fromkeys(PADDING_NAMES, padding)
        known["attention_mask"] = None if padding is None else (~padding).long()
        known.update(lengths=lengths, history=context.history, offsets=context.offsets, max_length=context.max_length)
        known["step"] = context.step
        arguments = {name: known[name] for name in self.names if known[name] is not None}
        missing = sorted(self.needs - arguments.keys())
        if missing:
            raise InputError(f"{type(module).__name__} needs {', '.join(missing)}, which this call does not give it")
        if self.causal_name is not None and context.offsets is None:
            arguments[self.causal_name] = _causal_mask(x.shape[1], x.device)
        return arguments


@dataclass(frozen=True)
class TurnedCall:
    """Torch's own convention of (x, lengths): the first `lengths` positions are real, as packed sequences have them.

    Args:
        plain: how it is called otherwise.
    """

    plain: PlainCall

    @property
    def dim(self) -> int | None:
        """d, where the module says it."""
        return self.plain.dim

    @property
    def facts(self) -> Facts:
        """Those of `plain`."""
        return self.plain.facts

    @property
    def takes_packed(self) -> bool:
        """As `plain`."""
        return self.plain.takes_packed

    def __call__(self, module: nn.Module, x: Tensor, context: Context) -> Tensor:
        """Turn, call, turn back; an output that ends with the longest row is filled up."""
        if context.offsets is not None or context.lengths is None:
            return self.plain(module, x, context)
        length, turn = x.shape[1], _Turn(context.lengths, x.shape[1])
        read = self.plain(module, turn(x), context)
        if read.ndim == 3 and read.shape[1] < length and read.shape[::2] == x.shape[::2]:
            read = nn.functional.pad(read, (0, 0, 0, length - read.shape[1]))
        return turn.back(read) if read.shape == x.shape else read


def hidden_states(module: nn.Module, output: Any) -> Tensor:
    """The hidden states in what a module returned: a tensor, (tensor, ...), or `last_hidden_state`.

    Raises:
        InputTypeError: where there are none.
    """
    if isinstance(output, Tensor):
        return output
    found = output.get("last_hidden_state") if isinstance(output, Mapping) else None
    found = getattr(output, "last_hidden_state", found)
    if found is None and isinstance(output, (tuple, list)) and output:
        found = output[0]
    if isinstance(found, Tensor):
        return found
    shown = f" with keys {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
    raise InputTypeError(
        f"{type(module).__name__} must return a tensor, a tuple that starts with one, or last_hidden_state, got "
        f"{type(output).__name__}{shown}: {WAY_OUT}"
    )


class _Turn:
    """Left-padded rows to rows that start with their oldest token, and back."""

    def __init__(self, lengths: Int[Tensor, " B"], length: int | Int[Tensor, ""]) -> None:
        places = torch.arange(length, device=lengths.device)  # type: ignore[arg-type]  # a tensor is one, traced
        self._forth = (places - lengths[:, None]) % length
        self._back = (places + lengths[:, None]) % length

    def __call__(self, x: Tensor) -> Tensor:
        return self._take(x, self._forth)

    def back(self, x: Tensor) -> Tensor:
        return self._take(x, self._back)

    @staticmethod
    def _take(x: Tensor, places: Tensor) -> Tensor:
        return x.gather(1, places if x.ndim == 2 else places[..., None].expand(-1, -1, x.shape[2]))


def _causal_mask(length: int, device: torch.device) -> Bool[Tensor, "L L"]:
    return torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
