"""Run by `test_contract.py`: a compiled block gives what the block gives, and its gradients."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import latentloop  # noqa: E402

latentloop.__path__.append(str(ROOT))

from latentloop.adapt import adapt  # noqa: E402
from latentloop.per_step import PerStep  # noqa: E402
from tests.contracts.encoders import DIM, ENCODERS, MAX_LENGTH  # noqa: E402


def main() -> None:
    torch.set_num_threads(1)
    lengths = torch.tensor([1, 4, MAX_LENGTH])
    padding = torch.arange(MAX_LENGTH) < (MAX_LENGTH - lengths)[:, None]
    for name, blocks in ENCODERS.items():
        try:
            pre_block, core_block = blocks()
            block = adapt(core_block if isinstance(core_block, PerStep) else pre_block).eval()
        except pytest.skip.Exception:
            continue
        torch.compiler.reset()
        compiled = torch.compile(block, backend="aot_eager")
        outputs, gradients = [], []
        for call in (block, compiled):
            torch.manual_seed(0)
            x = torch.randn(3, MAX_LENGTH, DIM, requires_grad=True)
            output = call(x, padding_mask=padding, lengths=lengths, history=(~padding).long())
            output.square().sum().backward()
            outputs.append(output.detach())
            gradients.append(x.grad)
        torch.testing.assert_close(
            outputs[1], outputs[0], rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        sys.stdout.write(f"{name};")


if __name__ == "__main__":
    main()
