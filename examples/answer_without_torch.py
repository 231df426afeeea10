"""A saved model as one ONNX file, which gives the ten best items of histories wherever onnxruntime runs.

python examples/answer_without_torch.py MODEL ITEM..., after pip install 'latentloop[onnx]'
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import torch

from latentloop import Recommender


class Best(torch.nn.Module):
    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.model = model

    def forward(self, history: torch.Tensor) -> torch.Tensor:  # numbers (B, L or more), left-padded with 0, to (B, 10)
        scores = self.model(history[:, -self.model.max_length :]) @ self.model.keys().T  # (B, N): column 0 is item 1
        return torch.nn.functional.pad(scores, (1, 0)).scatter(1, history, -torch.inf)[:, 1:].topk(10).indices + 1


def main(folder: str, *history: str) -> list[str]:
    """Write FOLDER/model.onnx, and answer a history by it."""
    model, path = Recommender.from_pretrained(folder), f"{folder}/model.onnx"
    example = torch.ones(2, model.max_length + 1, dtype=torch.int64)
    sizes = {0: torch.export.Dim("rows", min=1), 1: torch.export.Dim("length", min=model.max_length)}
    torch.onnx.export(Best(model).eval(), (example,), path, dynamic_shapes=(sizes,), dynamo=True, external_data=False)
    names = [str(item) for item in model.item_ids or ()]
    row = np.pad([names.index(item) + 1 for item in history], (max(0, model.max_length - len(history)), 0))[None]
    return [names[number - 1] for number in onnxruntime.InferenceSession(path).run(None, {"history": row})[0][0]]


if __name__ == "__main__":
    print(*main(*sys.argv[1:]))
