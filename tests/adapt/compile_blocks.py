"""Run by `test_adapt.py`: compiled blocks give what their modules give by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import latentloop  # noqa: E402

latentloop.__path__.append(str(ROOT))

from latentloop.adapt import adapt  # noqa: E402
from latentloop.backbones.bsarec import BSARec  # noqa: E402
from latentloop.backbones.fmlprec import FMLPRec  # noqa: E402
from tests.adapt.zoo import CASES, TOLERANCE, by_hand, every_padding, transformer  # noqa: E402


def main() -> None:
    torch.set_num_threads(1)
    batch = every_padding(4)
    context = {"padding_mask": batch.padding, "lengths": batch.lengths}
    for name, grad, in_one_piece in (
        ("gru", True, False),
        ("encoder 2", False, False),
        ("encoder 2, causal", False, True),
        ("user's attention", True, True),
        ("user's encoder", False, False),
        ("sasrec", True, True),
    ):
        case = CASES[name]
        module = case.make()
        block = adapt(module, causal=case.causal).eval()
        torch.compiler.reset()
        compiled = torch.compile(block, backend="eager", fullgraph=in_one_piece)
        with torch.set_grad_enabled(grad):
            output = compiled(batch.x, **context).detach()
        torch.testing.assert_close(output, by_hand(case, module, batch), **TOLERANCE)

    length, dim = batch.x.shape[1:]
    for made in (FMLPRec().blocks(dim, length)[0].eval(), BSARec(cutoff=3).blocks(dim, length)[0].eval()):
        torch.compiler.reset()
        compiled = torch.compile(adapt(made), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(batch.x, **context), adapt(made)(batch.x, **context), **TOLERANCE)

    module = transformer(1)
    adapted = adapt(torch.compile(module, backend="eager"), causal=True)
    torch.testing.assert_close(adapted(batch.x, **context), adapt(module, causal=True)(batch.x, **context), **TOLERANCE)


if __name__ == "__main__":
    main()
