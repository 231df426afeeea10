"""Which way a module is called: decided once, from its type where torch made it and from its signature otherwise."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from latentloop.blocks.calls import PADDING_NAMES, WAY_OUT, Call, EmbedsCall, PlainCall, RecurrentCall, TransformerCall
from latentloop.blocks.facts import Facts, made_here
from latentloop.blocks.safe_attention import holds_attention
from latentloop.errors import InputError, InputTypeError

__all__ = ["plain_call", "way_to_call"]

logger = logging.getLogger(__name__)

CAUSAL_NAMES = ("src_mask", "attn_mask", "mask")  # (L, L) bool, True = must not look
_LIKE_PADDING = re.compile(r"masks?$|(?<!max)(^|_)(seq_?)?len(gth)?s?$")
CHANNELS_FIRST = (
    "nn.Sequential(Rearrange('b l d -> b d l'), it, Rearrange('b d l -> b l d')), Rearrange from einops.layers.torch"
)


def way_to_call(module: nn.Module, *, causal: bool) -> Call:
    """Choose how to call `module`, from its type where torch made it and from its signature otherwise.

    Raises:
        InputTypeError: where it cannot be adapted.
        InputError: where its sizes cannot be those of a block.
    """
    if isinstance(module, torch.jit.ScriptModule):  # neither its class nor its signature can be read
        raise InputTypeError(f"a TorchScript module does not show what its forward takes: {WAY_OUT}")
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise InputTypeError(f"{type(module).__name__} hides its module: adapt that, and wrap the whole model instead")
    plain = getattr(module, "_orig_mod", module)  # what torch.compile(module) wraps
    _refuse_what_is_no_encoder(plain)
    forward = type(plain).forward
    if isinstance(plain, nn.RNNBase) and forward in (nn.RNN.forward, nn.GRU.forward, nn.LSTM.forward):
        return _recurrent(plain, causal)
    if isinstance(plain, nn.TransformerEncoder) and forward is nn.TransformerEncoder.forward:
        layer: Any = plain.layers[0] if len(plain.layers) else None
        if isinstance(layer, nn.TransformerEncoderLayer):
            return _transformer(layer, "mask", causal)
    if isinstance(plain, nn.TransformerEncoderLayer) and forward is nn.TransformerEncoderLayer.forward:
        return _transformer(plain, "src_mask", causal)
    parameters = inspect.signature(plain.forward).parameters
    if "inputs_embeds" in parameters:
        return _embeds(plain, parameters, causal)
    call = plain_call(plain, plain.forward, causal=causal)
    time_first = _time_first(plain)
    if time_first is not None:
        logger.warning(
            "%s holds a %s with batch_first=False, which takes the rows of x (B, L, d) for time steps: make it "
            "batch_first=True, unless x is turned around before it",
            type(plain).__name__,
            type(time_first).__name__,
        )
    return call


def plain_call(module: nn.Module, function: Callable[..., Any], *, causal: bool = False) -> PlainCall:
    """Read the signature of `function`, the forward or another method of `module` whose first argument is x."""
    name = type(module).__name__
    parameters = inspect.signature(function).parameters
    offered = {*PADDING_NAMES, "attention_mask", "lengths", "history", "offsets", "max_length", "step"}
    first, named, needs, anything = _read(parameters)
    if first is None:
        raise InputTypeError(f"{name} takes no positional argument to hand x to: {WAY_OUT}")
    if first == getattr(module, "main_input_name", None):
        raise InputTypeError(f"{name} reads {first} and no inputs_embeds: {WAY_OUT}")
    if first == "hidden_states" and "attention_mask" in named:
        raise InputTypeError(
            f"{name} takes hidden_states and attention_mask, the additive mask of a Hugging Face layer: "
            f"adapt the whole model, which takes inputs_embeds, or {WAY_OUT}"
        )
    causal_name = next((n for n in CAUSAL_NAMES if n in named), None) if causal else None
    unknown = sorted(needs - offered - {causal_name})
    if unknown:
        raise InputTypeError(f"{name} needs {', '.join(unknown)}, which a block is not given: {WAY_OUT}")
    if causal and causal_name is None and getattr(module, "causal", False) is not True:
        raise InputTypeError(
            f"{name} takes no {' or '.join(CAUSAL_NAMES)} to make it causal: drop causal=True if it is causal by itself "
            "(and declare the class attribute causal = True), or mask inside it"
        )
    for spare in sorted(named - needs - offered - {causal_name, "src_mask", "attn_mask"}):
        if _LIKE_PADDING.search(spare):  # what is needed to leave padding out would be missed in silence
            logger.warning(
                "%s takes `%s`, which may mean anything, and is not given it: call it padding_mask (True = padding), "
                "attention_mask (1 = keep) or lengths",
                name,
                spare,
            )
    # **context stands for the names of the contract that say where tokens stand; any other must be asked for
    names = {"padding_mask", "lengths", "history", "offsets", "max_length"} if anything else set()
    if "step" in named and not made_here(module):
        own = parameters["step"].default  # one of its own says that it means something else
        tell = logger.info if own is inspect.Parameter.empty or own in (0, None) else logger.warning
        tell("%s takes `step` and is told which thought it makes: rename it if it means something else", name)
    linear = module if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward else None
    own_dim = getattr(module, "dim", None) if made_here(module) else None
    return PlainCall(
        dim=linear.in_features if linear is not None else own_dim,
        facts=Facts(causal=causal_name is not None),
        names=frozenset(names | (named & offered)),
        needs=frozenset(needs & offered),
        takes_packed=getattr(module, "packed", False) is True or "offsets" in named,
        causal_name=causal_name,
        guarded=holds_attention(module),
    )


def _refuse_what_is_no_encoder(module: nn.Module) -> None:
    name = type(module).__name__
    if type(module).forward is nn.Module.forward:
        raise InputTypeError(f"{name} has no forward: {WAY_OUT}")
    parts = _in_sequence(module)
    inner = parts[0] if parts else module
    if not str(getattr(type(inner).forward, "__module__", "")).startswith(
        "torch."
    ):  # a forward of one's own may take what it likes
        inner = nn.Identity()
    channels_first = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)
    if isinstance(inner, channels_first) or type(inner).__module__ == nn.modules.pooling.__name__:
        raise InputTypeError(f"{type(inner).__name__} takes channels first, (B, d, L), not (B, L, d): {CHANNELS_FIRST}")
    if isinstance(inner, (nn.Embedding, nn.EmbeddingBag)):
        raise InputTypeError(f"{type(inner).__name__} takes ids, and a block takes vectors (B, L, d): {WAY_OUT}")
    if isinstance(inner, nn.RNNCellBase):
        raise InputTypeError(f"{name} reads one position: pass nn.{type(inner).__name__.removesuffix('Cell')} instead")
    if isinstance(inner, nn.modules.loss._Loss):
        raise InputTypeError(f"{type(inner).__name__} is a loss, and a block maps (B, L, d) to (B, L, d)")
    told = {*PADDING_NAMES, "attention_mask", "lengths", "step"}
    for part in parts:
        if part is not module and (isinstance(part, nn.RNNBase) or told.intersection(_names(part))):
            raise InputTypeError(
                f"nn.Sequential tells its {type(part).__name__} nothing of padding or steps, which it would read: {WAY_OUT}"
            )
    if isinstance(inner, nn.modules.lazy.LazyModuleMixin):
        raise InputError(f"{type(inner).__name__} has no size yet: pass some rows through it first, or say its sizes")
    if inner is module and isinstance(inner, nn.Linear) and inner.in_features != inner.out_features:
        raise InputError(
            f"Linear maps {inner.in_features} to {inner.out_features}, and a block keeps d: make them equal"
        )


def _in_sequence(module: nn.Module) -> list[nn.Module]:
    """The modules that an `nn.Sequential`, and those inside it, call one after another; any other module itself."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return [inner for part in module for inner in _in_sequence(part)]
    return [module]


def _names(module: nn.Module) -> set[str]:
    try:
        return set(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):  # not written in Python
        return set()


def _time_first(module: nn.Module) -> nn.Module | None:
    """A part that takes (L, B, d), outside of what is adapted already."""
    if isinstance(getattr(module, "call", None), Call):
        return None
    if getattr(module, "batch_first", True) is False:
        return module
    return next(filter(None, map(_time_first, module.children())), None)


def _recurrent(module: nn.RNNBase, causal: bool) -> RecurrentCall:
    name, directions = type(module).__name__, 2 if module.bidirectional else 1
    size = (module.proj_size or module.hidden_size) * directions
    if size != module.input_size:
        projection = f" (or proj_size={module.input_size // directions})" if isinstance(module, nn.LSTM) else ""
        found = "bidirectional " if module.bidirectional else ""
        raise InputError(
            f"{found}{name} maps {module.input_size} to {size}, and a block keeps d: use "
            f"hidden_size={module.input_size // directions}{projection}, or put an nn.Linear behind it in a module"
        )
    if causal and module.bidirectional:
        raise InputTypeError(
            f"bidirectional {name} reads later positions first: drop causal=True or bidirectional=True"
        )
    return RecurrentCall(module.input_size, Facts(causal=not module.bidirectional, pad_invariant=True))


def _transformer(layer: nn.TransformerEncoderLayer, mask_name: str, causal: bool) -> TransformerCall:
    attention = layer.self_attn
    return TransformerCall(
        attention.embed_dim, Facts(causal=causal, pad_invariant=True), mask_name, attention.batch_first
    )


def _embeds(module: nn.Module, parameters: Mapping[str, inspect.Parameter], causal: bool) -> EmbedsCall:
    name = type(module).__name__
    if causal and getattr(module, "causal", False) is not True:
        raise InputTypeError(f"{name} decides by its config what a position sees: drop causal=True")
    if "decoder_inputs_embeds" in parameters or "decoder_input_ids" in parameters:
        raise InputTypeError(f"{name} is an encoder and a decoder: pass one of them, such as its get_encoder()")
    if getattr(module, "base_model", module) is not module:
        raise InputTypeError(f"{name} has a head and returns no hidden states: pass its base_model")
    get_embeddings = getattr(module, "get_input_embeddings", None)
    table = get_embeddings() if callable(get_embeddings) else None
    dim = table.embedding_dim if isinstance(table, nn.Embedding) else None
    return EmbedsCall(dim, Facts(), frozenset(parameters))


def _read(parameters: Mapping[str, inspect.Parameter]) -> tuple[str | None, set[str], set[str], bool]:
    """The first positional name, the other names, those of them without a default, and whether **anything goes."""
    first: str | None = None
    named: set[str] = set()
    needs: set[str] = set()
    anything = False
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            anything = True
        elif first is None and parameter.kind is not parameter.KEYWORD_ONLY:
            first = name
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            named.add(name)
            if parameter.default is parameter.empty:
                needs.add(name)
    return first, named, needs, anything
