"""A flipped bit of a training state or of a model's weights is told, wherever it is, or it changes nothing."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from latentloop.errors import InputError
from latentloop.runs.train_state import Progress, check_names, check_whole, load_progress, load_state, save_state
from latentloop.saving.weights import WEIGHTS, load_weights, write_weights

HISTORY = [{"stage": "spt", "epoch": epoch, "ndcg@10": 0.1 * epoch, "train_seconds": 1.5} for epoch in (1, 2)]
PROGRESS = Progress(epoch=2, step=9, best_epoch=2, best=0.2, began="0" * 32, history=HISTORY)


class Small(nn.Module):
    """A shared tensor, whole numbers, an empty tensor and a single number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 2)
        self.second = nn.Linear(3, 2)
        self.second.weight = self.first.weight
        self.register_buffer("counts", torch.arange(3))
        self.register_buffer("none", torch.zeros(0, 2))
        self.register_buffer("one", torch.tensor(0.5, dtype=torch.bfloat16))


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Small()
    optimizer = torch.optim.AdamW(model.parameters())
    (model.first(torch.ones(3)) + model.second(torch.ones(3))).sum().backward()
    optimizer.step()
    return model, optimizer


def same(found: Any, expected: Any) -> bool:
    """Nested dictionaries, lists and dataclasses, tensors bit by bit."""
    if isinstance(expected, Tensor):
        return found.dtype == expected.dtype and found.shape == expected.shape and torch.equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[name], expected[name]) for name in expected)
    return type(found) is type(expected) and found == expected


def read_state(folder: Path) -> dict[str, Any]:
    """As `--resume` does."""
    path, (model, optimizer) = folder / "state", trained()
    progress = load_progress(path)
    assert progress is not None
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    load_state(path, model, optimizer)
    return dataclasses.asdict(progress) | {"model": model.state_dict(), "optimizer": optimizer.state_dict()["state"]}


def read_left_aside(folder: Path) -> dict[str, Any]:
    """As `--resume` does where the stage starts over."""
    progress = load_progress(folder / "state")
    assert progress is not None
    check_whole(folder / "state")
    check_names(folder / "state", Small())
    return dataclasses.asdict(progress)


def read_model(folder: Path) -> dict[str, Any]:
    model = Small()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    load_weights(model, folder)
    return dict(model.state_dict())


Reader = Callable[[Path], dict[str, Any]]
READERS: dict[str, tuple[str, Reader]] = {
    "state": ("state", read_state),
    "state left aside": ("state", read_left_aside),
    "model": (WEIGHTS, read_model),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    model, optimizer = trained()
    save_state(folder / "state", model, optimizer, PROGRESS)
    write_weights(model, folder / WEIGHTS)
    return folder


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def told_or_harmless(kind: str, saved: Path, folder: Path, bit: int) -> bool:
    """Whether it is told; where it is not, what is read must be what was saved."""
    name, read = READERS[kind]
    content = (saved / name).read_bytes()
    (folder / name).write_bytes(flip(content, bit))
    try:
        found = read(folder)
    except InputError as error:
        assert "\n" not in str(error) and str(folder / name) in str(error)
        return True
    assert same(found, read(saved)), (kind, bit)
    return False


@pytest.mark.parametrize("kind", READERS)
@given(share=st.floats(0, 1, exclude_max=True))
def test_any_flipped_bit_is_told_or_changes_nothing(
    kind: str, saved: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    told_or_harmless(kind, saved, folder, int(share * 8 * (saved / READERS[kind][0]).stat().st_size))
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", READERS)
@given(share=st.floats(0, 1, exclude_max=True))
def test_any_flipped_bit_of_a_tensor_is_told(
    kind: str, saved: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    content = (saved / READERS[kind][0]).read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    folder = tmp_path_factory.mktemp("flipped")
    assert told_or_harmless(kind, saved, folder, 8 * begin + int(share * 8 * (len(content) - begin)))
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_every_bit(kind: str, saved: Path, tmp_path: Path) -> None:
    bits = 8 * (saved / READERS[kind][0]).stat().st_size
    quiet = sum(not told_or_harmless(kind, saved, tmp_path, bit) for bit in range(bits))
    # the checksum's own name is not covered by it, nor is "format", which nobody reads
    assert 0 < quiet < 8 * 40


def test_what_is_read_is_what_was_saved(saved: Path) -> None:
    found = read_state(saved)
    assert found["history"] == HISTORY and found["epoch"] == 2
    torch.manual_seed(0)
    model, optimizer = trained()
    assert same(found["model"], model.state_dict())
    assert same(found["optimizer"], optimizer.state_dict()["state"]) and len(found["optimizer"]) == 3
    assert same(read_model(saved), dict(model.state_dict()))


@pytest.mark.parametrize("change", ["counters", "names", "nothing"])
def test_counters_and_names_count(change: str, saved: Path, tmp_path: Path) -> None:
    """Whoever writes them otherwise has not the same state."""
    with safe_open(str(saved / "state"), framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    if change == "counters":
        metadata["progress"] = metadata["progress"].replace('"step": 9', '"step": 8')
    elif change == "names":
        one, two = "optimizer.0.exp_avg", "optimizer.0.exp_avg_sq"
        tensors[one], tensors[two] = tensors[two], tensors[one]
    save_file(tensors, str(tmp_path / "state"), metadata=metadata)
    if change == "nothing":
        assert same(read_state(tmp_path), read_state(saved))
        return
    with pytest.raises(InputError, match="does not match its checksum"):
        read_state(tmp_path)
