"""Models leave for elsewhere: `torch.export`, `torch.jit.trace` and ONNX give what the model gives, for any rows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from latentloop.items.text_features import TextFeatures
from latentloop.recipes import BACKBONES, build_recommender
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth

ITEMS, LENGTH = 40, 6
OWN = {"sasrec, norms of each thought": 0, "sasrec, norms and changes of each thought": 2}
OWN_BLOCKS = {
    "own": lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh()),
    "own gru": lambda: nn.GRU(8, 8, 2, batch_first=True),
    "own lstm": lambda: nn.LSTM(8, 8),
    "own transformer": lambda: nn.TransformerEncoderLayer(8, 2, 8, batch_first=True),
}
HISTORY = torch.tensor([[0, 0, 0, 3, 4, 5], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 7], [0, 0, 0, 0, 0, 0]])


def model_of(name: str, loop: bool) -> Recommender:
    torch.manual_seed(0)
    if name in OWN_BLOCKS:
        block = [OWN_BLOCKS[name]() for _ in range(2)]
        return Recommender(ITEMS, RecurrentDepth(*block) if loop else block[0], dim=8, max_length=LENGTH).eval()
    settings: dict[str, Any] = {"pre_layers": 1, "core_layers": 1}
    if name == "tedrec":
        features = torch.randn(ITEMS + 1, 5)
        features[0] = 0
        settings["text"] = TextFeatures(features, torch.zeros(ITEMS + 1, dtype=torch.bool))
    own = {"own_norms": 3, "own_rank": OWN[name]} if name in OWN else {}
    backbone = BACKBONES["sasrec" if own else name](**settings)
    model = build_recommender(backbone, ITEMS, dim=8, max_length=LENGTH, loop=loop, **own).eval()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


MODELS = [(name, loop) for name in (*BACKBONES, *OWN_BLOCKS) for loop in (True, False)]


@pytest.mark.parametrize(("name", "loop"), [*MODELS, *((name, True) for name in OWN)])
@pytest.mark.parametrize("how", ["export", "trace"])
@torch.no_grad()
def test_an_exported_model_answers_as_the_model_does(how: str, name: str, loop: bool) -> None:
    if how == "export" and not hasattr(torch.compiler, "is_exporting"):
        pytest.skip("this torch does not tell that it exports")
    model = model_of(name, loop)
    made: Any
    if how == "export":
        rows = {"history": {0: torch.export.Dim("rows", min=1)}}
        made = torch.export.export(model, (HISTORY,), dynamic_shapes=rows).module()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            made = torch.jit.trace(model, (HISTORY,), check_trace=False)
    others = torch.cat([HISTORY.flip(0), HISTORY.flip(0)[:1] + 0, torch.tensor([[0, 9, 8, 7, 6, 5]])])
    for history in (HISTORY, others):
        answer: Tensor = made(history)
        torch.testing.assert_close(answer, model(history), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="this torch does not tell that it exports")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in BACKBONES else pytest.mark.slow)
        for name in (*BACKBONES, *OWN_BLOCKS, *OWN)
    ],
)
@torch.no_grad()
def test_onnxruntime_answers_as_the_model_does(name: str, tmp_path: Path) -> None:
    model, path = model_of(name, loop=True), tmp_path / "model.onnx"
    rows = {"history": {0: torch.export.Dim("rows", min=1)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (HISTORY,), path, dynamic_shapes=rows, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path)
    for history in (HISTORY, HISTORY.flip(0)[1:], torch.tensor([[0, 9, 8, 7, 6, 5]])):
        (answer,) = session.run(None, {"history": history.numpy()})
        torch.testing.assert_close(torch.from_numpy(answer), model(history), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="this torch does not tell that it exports")
def test_an_rnn_of_two_directions_is_not_exported_without_a_word() -> None:
    model = Recommender(ITEMS, nn.GRU(8, 4, bidirectional=True, batch_first=True), dim=8, max_length=LENGTH).eval()
    with pytest.raises(Exception, match=r"torch\.jit\.trace"):
        torch.export.export(model, (HISTORY,), dynamic_shapes={"history": {0: torch.export.Dim("rows", min=1)}})


@pytest.mark.parametrize("how", ["export", "trace"])
def test_a_draw_at_each_call_is_not_frozen_in_a_graph(how: str) -> None:
    model = model_of("own", loop=True)
    model.inference_state = "fresh"
    with warnings.catch_warnings(), pytest.raises(Exception, match="set model.inference_state = 'shared' or 'zero'"):
        warnings.simplefilter("ignore")
        if how == "export":
            torch.export.export(model, (HISTORY,))
        else:
            torch.jit.trace(model, (HISTORY,), check_trace=False)
    plain = model_of("own", loop=False)
    plain.inference_state = "fresh"  # of a T_0 that it does not have
    assert torch.export.export(plain, (HISTORY,)).module()(HISTORY).shape == (4, 8)
