"""Layers one position and one number at a time, in float64 NumPy, from modules' weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def norm(module: Any, rows: Array) -> Array:
    """Layer norm of each row."""
    if isinstance(module, torch.nn.Identity):
        return rows
    weight, bias = array(module.weight), array(module.bias)
    return np.stack([(v - v.mean()) / np.sqrt(v.var() + 1e-5) * weight + bias for v in rows])


def linear(module: Any, rows: Array) -> Array:
    weight, bias = array(module.weight), array(module.bias)
    return np.stack([weight @ v + bias for v in rows])


def gelu(v: Array) -> Array:
    return 0.5 * v * (1 + torch.erf(torch.from_numpy(v) / 2**0.5).numpy())


def enter(residual: Any, x: Array) -> Array:
    return norm(residual.norm, x) if residual.pre_norm else x


def leave(residual: Any, x: Array, output: Array) -> Array:
    return x + output if residual.pre_norm else norm(residual.norm, x + output)


def feed_forward(layer: Any, x: Array) -> Array:
    """The second half of a layer."""
    residual, net = layer.feed_forward_residual, layer.feed_forward
    return leave(residual, x, linear(net[2], gelu(linear(net[0], enter(residual, x)))))


def attention(module: Any, x: Array, padding: Array) -> Array:
    """Causal attention over what is not padding; positions that see nothing see themselves."""
    dim, size = x.shape[1], x.shape[1] // module.heads
    projected = linear(module.query_key_value, x)
    read = np.zeros_like(x)
    for place in range(len(x)):
        seen = [other for other in range(place + 1) if not padding[other] or other == place]
        for head in range(module.heads):
            cut = slice(head * size, (head + 1) * size)
            query = projected[place, :dim][cut]
            scores = np.array([query @ projected[other, dim : 2 * dim][cut] for other in seen]) / np.sqrt(size)
            share = np.exp(scores - scores.max())
            share /= share.sum()
            read[place, cut] = sum(s * projected[other, 2 * dim :][cut] for s, other in zip(share, seen, strict=True))
    return linear(module.output, read)


def spectrum(signal: Array) -> Array:
    """The components 0..L/2 of a real signal, orthonormal."""
    length = len(signal)
    return np.array(
        [
            sum(signal[n] * np.exp(-2j * np.pi * k * n / length) for n in range(length)) / np.sqrt(length)
            for k in range(length // 2 + 1)
        ]
    )


def signal(components: Array, length: int) -> Array:
    """The real signal of components 0..L/2: each but 0 and L/2 stands for two, itself and its conjugate."""
    found = np.zeros(length)
    for n in range(length):
        for k, component in enumerate(components):
            twice = 1 if k == 0 or 2 * k == length else 2
            found[n] += twice * (component * np.exp(2j * np.pi * k * n / length)).real / np.sqrt(length)
    return found
