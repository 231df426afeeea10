"""A saved model as one ONNX file, which gives the ten best items of histories wherever onnxruntime runs.

python examples/answer_without_torch.py MODEL ITEM..., after pip install 'latentloop[onnx]'
"""

import sys

import numpy as np
import onnxruntime
import torch

from latentloop import Recommender


class Best(torch.nn.Module):
    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.model = model

    def forward(self, history: torch.Tensor) -> tuple[torch.Tensor, ...]:  # numbers (B, L or more), left-padded with 0
        scores = torch.nn.functional.pad(self.model.score(history[:, -self.model.max_length :]), (1, 0))  # by number
        return tuple(scores.scatter(1, history, -torch.inf)[:, 1:].topk(min(10, self.model.num_items)))


def main(folder: str, *history: str) -> list[str]:
    """Write FOLDER/model.onnx, and answer a history by it."""
    model, path = Recommender.from_pretrained(folder), f"{folder}/model.onnx"
    example = torch.ones(2, model.max_length + 1, dtype=torch.int64)
    sizes = {0: torch.export.Dim("rows", min=1), 1: torch.export.Dim("length", min=model.max_length)}
    torch.onnx.export(Best(model).eval(), (example,), path, dynamic_shapes=(sizes,), dynamo=True, external_data=False)
    names = [str(item) for item in model.item_ids or range(1, model.num_items + 1)]
    numbers = [names.index(item) + 1 for item in history if item in names]
    row = np.array([[0] * (model.max_length - len(numbers)) + numbers])
    scores, places = onnxruntime.InferenceSession(path).run(None, {"history": row})
    return [names[place] for score, place in zip(scores[0], places[0], strict=True) if score > -np.inf]


if __name__ == "__main__":
    print(*main(*sys.argv[1:]))
