"""Model directories: the same bits after loading, one line for whatever is wrong, no network without hf://."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from latentloop.adapt import adapt
from latentloop.backbones.sasrec import SASRec
from latentloop.depth import FixedDepth, UniformDepth
from latentloop.errors import InputError
from latentloop.items.ids import ItemIds
from latentloop.recipes import build_recommender
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth
from latentloop.runs.directory import RunDirectory
from latentloop.saving.weights import load_weights, write_weights
from latentloop.scoring import Cosine
from tests.core.worlds import DIM, MAX_LENGTH, NUM_ITEMS, built_in, encoder, ragged, recommender, seeds, unchecked


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        pytest.fail(f"the hub was asked for {args}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr("latentloop.saving.pretrained.snapshot_download", fail)


def same(one: Recommender, other: Recommender, seed: int = 0) -> None:
    history = ragged(seed)
    with torch.no_grad():
        assert torch.equal(one.score(history), other.score(history))
        assert torch.equal(one.score(history, depth=1), other.score(history, depth=1))
    assert {n: t.tolist() for n, t in one.state_dict().items()} == {
        n: t.tolist() for n, t in other.state_dict().items()
    }


SETTINGS: list[dict[str, Any]] = [
    {},
    {"loop": False},
    {"aggregate": "gate", "depth_law": UniformDepth(1, 4), "state_std": 0.5, "scorer": "cosine"},
    {"depth_law": FixedDepth(2), "scorer": Cosine(0.3), "dropout": 0.1, "seed": 9},
    {"depth_law": FixedDepth(3), "own_norms": 2},
    {"depth_law": FixedDepth(3), "own_norms": 2, "own_rank": 3},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_built_in_backbone_loads_to_the_same_bits(settings: dict[str, Any], tmp_path: Path) -> None:
    model = built_in(3, **settings)
    ids = [f"i{n}" if n % 2 else n for n in range(NUM_ITEMS)]
    model.item_ids = ItemIds(ids)
    model.save_pretrained(tmp_path / "a")
    torch.manual_seed(99)
    loaded = Recommender.from_pretrained(tmp_path / "a")
    same(model, loaded)
    assert not any(m.training for m in loaded.modules())
    assert list(loaded.item_ids or ()) == ids
    for name in ("scorer", "depth_law", "inference_depth", "inference_state", "backbone", "num_items", "max_length"):
        assert getattr(loaded, name) == getattr(model, name)
    assert loaded.input_dropout.p == model.input_dropout.p
    loaded.save_pretrained(tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_load_to_the_same_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    model = built_in(3).to(dtype)
    model.save_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path)
    assert loaded.item_table.weight.dtype == dtype
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_precisions_that_differ_within_a_model_load_to_the_same_bits(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)  # its noise stays float32
    try:
        wide = built_in(3)
    finally:
        torch.set_default_dtype(torch.float32)
    mixed = built_in(4)
    mixed.encoder.to(torch.bfloat16)
    for name, model in {"wide": wide, "mixed": mixed}.items():
        assert len({tensor.dtype for tensor in model.state_dict().values()}) == 2
        model.save_pretrained(tmp_path / name)
        loaded = Recommender.from_pretrained(tmp_path / name)
        for key, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor) and loaded.state_dict()[key].dtype == tensor.dtype, key
    assert torch.equal(Recommender.from_pretrained(tmp_path / "wide").score(ragged(5)), wide.eval().score(ragged(5)))


class Mixed(torch.nn.Module):
    """What it shares lies in a buffer; what it makes of types, in one that is not saved."""

    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.register_buffer("scale", scale)
        self.register_buffer("eye", torch.eye(8), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.linear(x.to(self.linear.weight.dtype)) * self.scale @ self.eye).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("whole", [True, False])
def test_blocks_of_another_precision_answer_as_they_did(dtype: torch.dtype, whole: bool, tmp_path: Path) -> None:
    """Wholly of it, which parts what its blocks share, or within a float32 model."""

    def blocks() -> RecurrentDepth:
        scale = torch.rand(8)
        return RecurrentDepth(Mixed(scale), Mixed(scale))

    model = Recommender(30, blocks(), 8, 8, init_std=0.5).eval()
    for part in [model] if whole else [model.encoder.pre_block, model.encoder.core_block]:
        part.to(dtype)
    model.save_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path, encoder=blocks())
    history = torch.randint(1, 31, (4, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.score(history), model.score(history))
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype and torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("mixed", [False, True])
def test_numbers_that_two_parameters_share_are_loaded_into_both(mixed: bool, tmp_path: Path) -> None:
    class Sharing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Parameter(torch.randn(3))
            self.b = torch.nn.Parameter(self.a.data)
            self.norm = torch.nn.LayerNorm(3)

    saved, loaded = Sharing(), Sharing()
    saved.double()
    saved.b.data = saved.a.data
    if mixed:
        saved.norm.float()
    write_weights(saved, tmp_path / "model.safetensors")
    load_weights(loaded, tmp_path)
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor) and loaded.state_dict()[name].dtype == tensor.dtype, name


def test_a_fresh_process_loads_the_same_bits(tmp_path: Path) -> None:
    model = built_in(5)
    model.save_pretrained(tmp_path / "m")
    history = ragged(5)
    torch.save(history, tmp_path / "history.pt")
    code = (
        "import sys, torch\n"
        "torch.set_num_threads(1)\n"
        "import latentloop; latentloop.__path__.append(sys.argv[2])\n"
        "from latentloop.recommender import Recommender\n"
        "model = Recommender.from_pretrained(sys.argv[1] + '/m')\n"
        "scores = model.score(torch.load(sys.argv[1] + '/history.pt')).detach()\n"
        "torch.save(scores, sys.argv[1] + '/scores.pt')\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])}
    subprocess.run([sys.executable, "-c", code, str(tmp_path), root], env=environment, check=True)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "scores.pt"), model.score(history))


def test_saving_again_replaces_everything(tmp_path: Path) -> None:
    model = built_in(1)
    model.item_ids = ItemIds(range(NUM_ITEMS))
    model.save_pretrained(tmp_path)
    model.item_ids = None
    with torch.no_grad():
        model.item_table.weight.mul_(2)
    model.save_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path)
    same(model, loaded)
    assert loaded.item_ids is None
    assert not list(tmp_path.glob(".*"))


def test_one_module_in_both_places_loads(tmp_path: Path) -> None:
    def build() -> RecurrentDepth:
        block = encoder(0).core_block
        return RecurrentDepth(block, block)

    model = Recommender(NUM_ITEMS, build(), DIM, MAX_LENGTH, init_std=0.5).eval()
    with torch.no_grad():
        for parameter in model.encoder.core_block.parameters():
            parameter.add_(0.25)
    model.save_pretrained(tmp_path)
    same(model, Recommender.from_pretrained(tmp_path, encoder=build()))


class OneDepth:
    """A user's own law, without a repr of its own."""

    inference_depth = 2

    def sample(self, generator: torch.Generator) -> int:
        return 2


CUSTOM: list[Callable[[], RecurrentDepth]] = [
    lambda: encoder(7),
    lambda: encoder(7, aggregate=lambda t, h: t - h),
    lambda: encoder(7, depth_law=OneDepth()),
]


@pytest.mark.parametrize("build", CUSTOM)
def test_a_users_own_encoder_is_passed_back(build: Callable[[], RecurrentDepth], tmp_path: Path) -> None:
    model = Recommender(NUM_ITEMS, build(), DIM, MAX_LENGTH).eval()
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="your own encoder: pass it again as encoder="):
        Recommender.from_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in (other := build()).parameters():
            parameter.zero_()
    same(model, Recommender.from_pretrained(tmp_path, encoder=other))


def test_a_bare_block_is_passed_back(tmp_path: Path) -> None:
    model = Recommender(NUM_ITEMS, nn.Linear(DIM, DIM), DIM, MAX_LENGTH).eval()
    model.save_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path, encoder=nn.Linear(DIM, DIM))
    history = ragged(0)
    assert torch.equal(loaded.score(history), model.score(history))
    with pytest.raises(InputError, match="^encoder does not fit .*config.json: Linear is made for d = 3, got x"):
        Recommender.from_pretrained(tmp_path, encoder=nn.Linear(3, 3))


@pytest.mark.parametrize("compiled_first", [True, False])
def test_a_block_is_the_same_compiled_or_not(compiled_first: bool, tmp_path: Path) -> None:
    def build(compiled: bool) -> RecurrentDepth:
        pre_block, core_block = (block.module for block in (encoder(7).pre_block, encoder(7).core_block))
        if compiled:
            core_block = torch.compile(core_block, backend="eager")
        return RecurrentDepth(pre_block, core_block)

    model = Recommender(NUM_ITEMS, build(compiled_first), DIM, MAX_LENGTH).eval()
    model.save_pretrained(tmp_path)
    for compiled in (True, False):
        with torch.no_grad():
            for parameter in (other := build(compiled)).parameters():
                parameter.zero_()
        loaded = Recommender.from_pretrained(tmp_path, encoder=other)
        for one, its in zip(model.parameters(), loaded.parameters(), strict=True):
            assert torch.equal(one, its)
        loaded.save_pretrained(tmp_path / "again")
        for name in ("config.json", "model.safetensors"):
            assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_file_that_names_the_wrapper_of_a_compiled_block_loads(tmp_path: Path) -> None:
    """As files of other programs do."""
    block = nn.Sequential(torch.compile(nn.Linear(3, 3), backend="eager"))
    save_file(block.state_dict(), tmp_path / "model.safetensors")
    plain = nn.Sequential(nn.Linear(3, 3))
    load_weights(plain, tmp_path)
    assert torch.equal(plain[0].weight, block[0]._orig_mod.weight)


class PartOfATable(nn.Module):
    """Its weight is rows of a table that it has as well."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(2 * DIM, DIM))
        self.weight = nn.Parameter(self.table.data[DIM:])
        self.turned = nn.Parameter(self.table.data.t())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.table.sum(0)


def test_weights_that_lie_within_others_are_kept(tmp_path: Path) -> None:
    model = Recommender(NUM_ITEMS, PartOfATable(), DIM, MAX_LENGTH).eval()
    model.save_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path, encoder=PartOfATable())
    history = ragged(0)
    assert torch.equal(loaded.score(history), model.score(history))


DIFFERENT: list[Callable[[], nn.Module]] = [
    lambda: encoder(7, aggregate="mean"),
    lambda: encoder(7, aggregate="gate"),
    lambda: encoder(7, state_std=2.0),
    lambda: encoder(7, depth_law=FixedDepth(3)),
    lambda: encoder(7).core_block,
    lambda: RecurrentDepth(nn.Identity(), encoder(7).core_block),
]


@pytest.mark.parametrize("build", DIFFERENT)
def test_another_encoder_is_refused(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    recommender(7).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="encoder does not match the one saved in"):
        Recommender.from_pretrained(tmp_path, encoder=build())


class Attention(nn.Module):
    """A user's block whose shapes say nothing of its settings."""

    def __init__(
        self,
        heads: int = 2,
        scale: float = 0.5,
        causal: bool = False,
        activation: Any = nn.functional.relu,
        p: float = 0.1,
    ) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(DIM, heads, dropout=p, batch_first=True)
        self.after = nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU() if activation is nn.functional.relu else nn.GELU())
        self.drop, self.attention_dropout = nn.Dropout(p), p
        self.scale, self.look_back_only, self.activation = scale, causal, activation
        self.floor, self.folder, self.device, self._note, self.names = -torch.inf, "/data/x", "cpu", "mine", ["a"]
        self.calls = 0

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        self.calls += 1
        mixed = self.mix(x, x, x, key_padding_mask=padding_mask)[0]
        hidden: Tensor = self.drop(self.activation(self.after(x + self.scale * mixed)))
        return hidden


def around(block: nn.Module, *, causal: bool = False) -> RecurrentDepth:
    return RecurrentDepth(nn.Identity(), adapt(block, causal=causal))


def kept(folder: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((folder / "config.json").read_text())["encoder_settings"]
    return found


@pytest.fixture(scope="module")
def attending(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model around `Attention`, saved after it was used."""
    folder = tmp_path_factory.mktemp("attending")
    model = Recommender(NUM_ITEMS, around(Attention()), DIM, MAX_LENGTH)
    model.score(ragged(0))
    assert model.encoder.core_block.module.calls > 0  # type: ignore[attr-defined]
    model.save_pretrained(folder)
    return folder


def test_plain_settings_are_kept_and_nothing_else(attending: Path) -> None:
    settings = kept(attending)
    assert settings["core_block.module"] == {
        "scale": 0.5, "look_back_only": False, "activation": "relu", "floor": "-inf"
    }  # fmt: skip
    assert settings["core_block.module.mix"]["num_heads"] == 2
    assert settings["core_block.module.after.1"] == {"class": "ReLU"}
    assert "core_block.module.drop" not in settings and "core_block.module.after.0" not in settings
    assert all(settings.values())


OTHER_SETTINGS: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: Attention(heads=4), r"num_heads of core_block\.module\.mix was 2 and is 4; .* delete that setting"),
    (lambda: Attention(scale=0.25), r"scale of core_block\.module was 0\.5 and is 0\.25"),
    (lambda: Attention(causal=True), r"look_back_only of core_block\.module was False and is True"),
    (lambda: Attention(activation=nn.functional.gelu), r"activation of core_block\.module was 'relu' and is 'gelu'"),
    (lambda: Attention(activation=torch.nn.ReLU()), r"class of core_block\.module\.after\.1 was 'ReLU' and is 'GELU'"),
]


@pytest.mark.parametrize(("build", "said"), OTHER_SETTINGS)
def test_other_settings_of_the_same_shapes_are_refused(
    build: Callable[[], nn.Module], said: str, attending: Path
) -> None:
    with pytest.raises(InputError, match=f"encoder does not match .*: {said}") as caught:
        Recommender.from_pretrained(attending, encoder=around(build()))
    assert "\n" not in str(caught.value)


def test_the_mask_that_an_adapted_module_is_given_is_a_setting(tmp_path: Path) -> None:
    def layer() -> nn.Module:
        return nn.TransformerEncoderLayer(DIM, 2, 16, batch_first=True)

    Recommender(NUM_ITEMS, around(layer(), causal=True), DIM, MAX_LENGTH).save_pretrained(tmp_path)
    Recommender.from_pretrained(tmp_path, encoder=around(layer(), causal=True))
    with pytest.raises(InputError, match="causal of core_block was True and is False"):
        Recommender.from_pretrained(tmp_path, encoder=around(layer()))


class Convolution(nn.Conv1d):
    """A user's block over positions, whose dilation no shape shows."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def test_numbers_in_tuples_are_settings(tmp_path: Path) -> None:
    def build(dilation: int) -> RecurrentDepth:
        return around(Convolution(DIM, DIM, 3, padding="same", dilation=dilation))

    Recommender(NUM_ITEMS, build(1), DIM, MAX_LENGTH).save_pretrained(tmp_path)
    Recommender.from_pretrained(tmp_path, encoder=build(1))
    with pytest.raises(InputError, match=r"dilation of core_block\.module was \[1\] and is \[2\]"):
        Recommender.from_pretrained(tmp_path, encoder=build(2))


@dataclasses.dataclass(frozen=True)
class Window:
    """A configuration object."""

    size: int
    hidden_dropout_prob: float = 0.1


class HuggingFaceConfig:
    """What a Hugging Face configuration shows of itself."""

    model_type = "fake"

    def __init__(self, theta: float, version: str) -> None:
        self.theta, self.version = theta, version

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values."""
        return {"rope": {"theta": self.theta}, "transformers_version": self.version, "bos_token_id": len(self.version)}


class Configured(nn.Module):
    """A user's block that keeps its settings elsewhere than in its attributes."""

    def __init__(self, config: Any = None, table: Tensor | None = None) -> None:
        super().__init__()
        self.config, self.linear = config, nn.Linear(DIM, DIM)
        self.linear.config = config  # as Hugging Face hands it to every part
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        hidden: Tensor = self.linear(x)
        return hidden


def rotations(base: float, rounding: float = 0.0) -> Tensor:
    angles = torch.arange(6)[:, None] * base ** (-torch.arange(4) / 4)
    return torch.cat([angles.sin(), angles.cos()], -1) * (1 + rounding)


@pytest.mark.parametrize(
    ("saved", "same", "other", "said"),
    [
        (Window(2), Window(2, 0.3), Window(3), "config.size of .* was 2 and is 3"),
        ({"size": 2}, {"size": 2, "new": 1}, {"size": 3}, "config.size of .* was 2 and is 3"),
        (SimpleNamespace(size=2), SimpleNamespace(size=2), SimpleNamespace(size=3), "config.size of"),
        ([1, 2], [1, 2], [1, 4], r"config of .* was \[1, 2\] and is \[1, 4\]"),
        (HuggingFaceConfig(1e4, "5"), HuggingFaceConfig(1e4, "5.1"), HuggingFaceConfig(1e2, "5"), "config.rope.theta"),
    ],
)
def test_a_configuration_object_s_plain_values_are_settings(
    saved: Any, same: Any, other: Any, said: str, tmp_path: Path
) -> None:
    Recommender(NUM_ITEMS, around(Configured(saved)), DIM, MAX_LENGTH).save_pretrained(tmp_path)
    Recommender.from_pretrained(tmp_path, encoder=around(Configured(same)))
    with pytest.raises(InputError, match=said):
        Recommender.from_pretrained(tmp_path, encoder=around(Configured(other)))


def test_a_buffer_that_no_file_keeps_is_a_setting(tmp_path: Path) -> None:
    Recommender(NUM_ITEMS, around(Configured(table=rotations(1e4))), DIM, MAX_LENGTH).save_pretrained(tmp_path)
    for same in (rotations(1e4, rounding=1e-7), None):
        Recommender.from_pretrained(tmp_path, encoder=around(Configured(table=same)))
    with pytest.raises(InputError, match="table of .* was '.*' and is '"):
        Recommender.from_pretrained(tmp_path, encoder=around(Configured(table=rotations(1e2))))


def test_what_changes_no_answer_is_no_setting(attending: Path) -> None:
    other = Attention(p=0.3)
    other.folder, other.device, other._note, other.names, other.calls = "C:\\x", "cuda:1", "yours", ["b"], 7
    other.mix.new_setting = 3  # of a later release: the saved model knows nothing of it
    del other.floor
    Recommender.from_pretrained(attending, encoder=around(other))


def test_a_model_saved_without_settings_still_loads(attending: Path, tmp_path: Path) -> None:
    shutil.copytree(attending, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["encoder_settings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    Recommender.from_pretrained(tmp_path, encoder=around(Attention(heads=4)))


def test_a_loaded_model_is_saved_with_the_same_settings(attending: Path, tmp_path: Path) -> None:
    loaded = Recommender.from_pretrained(attending, encoder=around(Attention()))
    loaded.score(ragged(0))
    loaded.save_pretrained(tmp_path)
    assert kept(tmp_path) == kept(attending)


@pytest.mark.parametrize("value", [5, ["heads"], {"core_block": 3}])
def test_wrong_settings_are_refused(value: Any, attending: Path, tmp_path: Path) -> None:
    shutil.copytree(attending, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"encoder_settings": value}))
    with pytest.raises(InputError, match=r"config\.json is damaged: encoder_settings"):
        Recommender.from_pretrained(tmp_path, encoder=around(Attention()))


def test_a_built_in_backbone_needs_no_settings(saved: Path) -> None:
    assert "encoder_settings" not in json.loads((saved / "config.json").read_text())


@pytest.mark.parametrize("first_shared", [True, False])
def test_a_shared_block_and_a_copied_one_are_told_apart(first_shared: bool, tmp_path: Path) -> None:
    def build(shared: bool) -> RecurrentDepth:
        block = nn.Linear(DIM, DIM)
        return RecurrentDepth(block, block if shared else "copy")

    Recommender(NUM_ITEMS, build(first_shared), DIM, MAX_LENGTH).save_pretrained(tmp_path)
    Recommender.from_pretrained(tmp_path, encoder=build(first_shared))
    with pytest.raises(InputError):
        Recommender.from_pretrained(tmp_path, encoder=build(not first_shared))


@dataclasses.dataclass(frozen=True)
class Half:
    """A user's own scorer."""

    def queries(self, thoughts: Tensor) -> Tensor:
        return thoughts / 2

    def keys(self, items: Tensor) -> Tensor:
        return items


def test_a_users_own_scorer_is_passed_back(tmp_path: Path) -> None:
    model = built_in(0, scorer=Half())
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="scorer of your own: pass it again as scorer="):
        Recommender.from_pretrained(tmp_path)
    same(model, Recommender.from_pretrained(tmp_path, scorer=Half()))


@dataclasses.dataclass(frozen=True)
class Scaled(Half):
    """Another, with a setting."""

    by: float = 2.0

    def queries(self, thoughts: Tensor) -> Tensor:
        return thoughts * self.by


@pytest.mark.parametrize(
    ("saved", "passed", "message"),
    [
        (Half(), Scaled(), "class of scorer was 'Half' and is 'Scaled'"),
        (Scaled(2.0), Scaled(-2.0), "by of scorer was 2.0 and is -2.0"),
        ("dot", "cosine", "class of scorer was 'Dot' and is 'Cosine'"),
        (Cosine(0.1), Cosine(0.2), "temperature of scorer was 0.1 and is 0.2"),
        ("cosine", Half(), "class of scorer was 'Cosine' and is 'Half'"),
        (Scaled(3.0), Scaled(3.0), None),
        (Cosine(0.1), Cosine(0.1), None),
    ],
)
def test_a_scorer_of_another_kind_or_setting_is_refused(
    tmp_path: Path, saved: Any, passed: Any, message: str | None
) -> None:
    model = built_in(0, scorer=saved)
    model.save_pretrained(tmp_path)
    if message is None:
        same(model, Recommender.from_pretrained(tmp_path, scorer=passed))
        return
    with pytest.raises(InputError, match=f"^scorer does not match the one saved in .*: {message}; pass the one"):
        Recommender.from_pretrained(tmp_path, scorer=passed)


class Counting(Half):
    """A scorer that counts its calls."""

    def __init__(self) -> None:
        object.__setattr__(self, "calls", 0)

    def queries(self, thoughts: Tensor) -> Tensor:
        object.__setattr__(self, "calls", self.calls + 1)  # type: ignore[attr-defined]
        return super().queries(thoughts)


def test_what_a_scorer_counts_is_no_setting(tmp_path: Path) -> None:
    model = built_in(0, scorer=Counting())
    model.score(torch.tensor([[1, 2]]))
    model.save_pretrained(tmp_path)
    Recommender.from_pretrained(tmp_path, scorer=Counting())


def test_what_was_set_on_a_model_is_given_again(tmp_path: Path) -> None:
    model = built_in(0)
    model.head = nn.Linear(DIM, 2)
    model.save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"the file has head.bias and 1 more.*given again, modules=\{'head': \.\.\.\}$"
    ):
        Recommender.from_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path, modules={"head": nn.Linear(DIM, 2)})
    same(model, loaded)
    assert torch.equal(loaded.head.weight, model.head.weight)
    for name in ("encoder", "score", "training"):
        with pytest.raises(InputError, match=f"modules names '{name}', which a model has already"):
            Recommender.from_pretrained(tmp_path, modules={name: nn.Linear(DIM, 2)})
    with pytest.raises(InputError, match="modules must map attributes to modules, got 'a.b': Linear"):
        Recommender.from_pretrained(tmp_path, modules={"a.b": nn.Linear(DIM, 2)})


def test_runs_and_models_are_told_apart(tmp_path: Path) -> None:
    for stage in ("spt", "rpt"):
        built_in(0).save_pretrained(tmp_path / "run" / stage)
    places = [str(tmp_path / "run" / stage) for stage in ("rpt", "spt")]
    with pytest.raises(InputError, match="is a run, not a model: its models are " + re.escape(" and ".join(places))):
        Recommender.from_pretrained(tmp_path / "run")
    for place, loads in (("run", places[0]), ("run/spt", "it")):
        with pytest.raises(
            InputError, match="`train` wrote; in Python, Recommender.from_pretrained loads " + loads + "$"
        ):
            RunDirectory.open(tmp_path / place)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="`train` wrote$"):
        RunDirectory.open(tmp_path / "empty")


def test_a_model_made_with_numpys_numbers_loads(tmp_path: Path) -> None:
    with unchecked():
        encoder = SASRec(pre_layers=np.int64(1), core_layers=np.int64(1), inner=np.int32(8))
        law, size = FixedDepth(np.int64(2)), np.int64(NUM_ITEMS)
        model = build_recommender(encoder, size, dim=np.int64(DIM), max_length=np.int64(5), depth_law=law)
    assert repr(law) == "FixedDepth(depth=2)"
    model.eval().save_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path)
    same(model, loaded)
    assert (loaded.num_items, loaded.inference_depth) == (NUM_ITEMS, 2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    model = built_in(0)
    model.item_ids = ItemIds([f"i{n}" for n in range(NUM_ITEMS)])
    model.save_pretrained(folder)
    return folder


def refused(folder: Path, part: str) -> str:
    """The one line with which a directory is refused; it names the file at fault."""
    with pytest.raises(InputError) as caught:
        Recommender.from_pretrained(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert part in message
    return message


@given(seed=seeds, share=st.floats(0, 1), flip=st.booleans())
def test_truncated_and_flipped_weights_are_refused(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, seed: int, share: float, flip: bool
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    place = int(share * (len(content) - 1))
    if flip:
        content[place] ^= 1 << (seed % 8)
    else:
        del content[place:]
    weights.write_bytes(content)
    refused(folder, "model.safetensors")
    shutil.rmtree(folder)


@given(share=st.floats(0, 0.999), name=st.sampled_from(["config.json", "items.json"]))
def test_truncated_json_is_refused(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, share: float, name: str
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    content = (folder / name).read_text().rstrip()
    (folder / name).write_text(content[: int(share * len(content))])
    refused(folder, f"{name} is damaged")
    shutil.rmtree(folder)


DELETE = object()
WRONG_CONFIG: list[tuple[str, Any]] = [
    ("format", 2),
    ("num_items", 10**13),
    ("num_items", "23"),
    ("num_items", -1),
    ("num_items", DELETE),
    ("dim", None),
    ("dim", 16),
    ("max_length", 7),
    ("dropout", "high"),
    ("dropout", 1.5),
    ("inference_state", "warm"),
    ("init_std", None),
    ("scorer", {"name": "os.system"}),
    ("scorer", {"name": "Cosine", "temperature": -1}),
    ("scorer", {"name": "Dot", "command": "ls"}),
    ("scorer", "Dot"),
    ("backbone", {"name": "os.system", "settings": {}, "loop": None}),
    ("backbone", {"name": "sasrec", "settings": {"code": 1}, "loop": None}),
    ("backbone", {"name": "sasrec", "settings": {"heads": 3}, "loop": None}),
    ("backbone", ["sasrec"]),
    ("backbone", {"name": ["sasrec"], "settings": {}, "loop": None}),
]


@pytest.mark.parametrize(("field", "value"), WRONG_CONFIG)
def test_wrong_configurations_are_refused(saved: Path, tmp_path: Path, field: str, value: Any) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config[field] = value
    if value is DELETE:
        del config[field]
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused(tmp_path, "config.json")


def test_a_configuration_cannot_name_code(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    for place in (("backbone", "name"), ("backbone", "loop", "depth_law", "name"), ("scorer", "name")):
        for name in ("subprocess.Popen", "latentloop.depth.FixedDepth", "builtins.exec", "__class__"):
            config = json.loads((saved / "config.json").read_text())
            inner = config
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = name
            (tmp_path / "config.json").write_text(json.dumps(config))
            refused(tmp_path, "config.json")


@pytest.mark.parametrize("value", [5, {"a": 1}, ["a"], [None] * NUM_ITEMS, ["a"] * NUM_ITEMS])
def test_wrong_item_ids_are_refused(saved: Path, tmp_path: Path, value: Any) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / "items.json").write_text(json.dumps(value))
    with unchecked():
        refused(tmp_path, "items.json is damaged")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files_are_named(saved: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).unlink()
    refused(tmp_path, f"{name} is missing")


def test_weights_of_another_model_are_refused(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "one")
    built_in(0, loop=False).save_pretrained(tmp_path / "two")
    shutil.copy(tmp_path / "two/model.safetensors", tmp_path / "one/model.safetensors")
    assert refused(tmp_path / "one", "model.safetensors").endswith("more, which the model has")


@pytest.mark.parametrize("path", ["owner/name", "no/such/folder", "bert-base-uncased", "https://example.org/x"])
def test_a_path_that_does_not_exist_never_reaches_the_network(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for asked in (path, Path(path)):
        with pytest.raises(InputError, match=r"no model directory at .* is written hf://owner/name"):
            Recommender.from_pretrained(asked)


def test_hf_addresses_are_fetched(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(name: str, **kwargs: Any) -> str:
        asked.append(name)
        return str(saved)

    monkeypatch.setattr("latentloop.saving.pretrained.snapshot_download", fetch)
    same(Recommender.from_pretrained("hf://owner/name"), Recommender.from_pretrained(saved))
    assert asked == ["owner/name"]


@pytest.mark.parametrize("error", [ConnectionError("no\nnetwork"), ValueError("bad name")])
def test_a_hub_that_does_not_answer_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str, **kwargs: Any) -> str:
        raise error

    monkeypatch.setattr("latentloop.saving.pretrained.snapshot_download", fetch)
    with pytest.raises(InputError, match=r"^hf://owner/name cannot be fetched from the hub: .*$"):
        Recommender.from_pretrained("hf://owner/name")


def test_push_to_hub_uploads_the_model_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, list[str]] = {}

    class Api:
        def __init__(self, **kwargs: Any) -> None: ...

        def create_repo(self, repo_id: str, **kwargs: Any) -> Any:
            return type("Repo", (), {"repo_id": repo_id})()

        def upload_folder(self, *, repo_id: str, folder_path: str | Path, **kwargs: Any) -> str:
            sent[repo_id] = sorted(p.name for p in Path(folder_path).iterdir())
            same(model, Recommender.from_pretrained(folder_path))
            return "https://example.org"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    model = built_in(2)
    model.push_to_hub("owner/name")
    assert {"config.json", "model.safetensors"} <= set(sent["owner/name"])


@pytest.mark.parametrize("another", [False, True])
@pytest.mark.parametrize("error", [OSError("disk full"), SafetensorError("I/O error: disk full (os error 28)")])
def test_a_failed_save_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, another: bool
) -> None:
    before = built_in(0)
    before.save_pretrained(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = built_in(1)
    if another:
        model.item_ids = ItemIds(range(NUM_ITEMS))

    def fail(model: nn.Module, path: str, **kwargs: Any) -> None:
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr("latentloop.saving.weights.save_file", fail)
    with pytest.raises(OSError, match="disk full|No space left on device: .*/model.safetensors'"):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("another", [False, True])
def test_a_save_that_is_cut_short_leaves_the_old_model_the_new_one_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, another: bool
) -> None:
    """Before each rename the process ends; over a model of the same description the weights alone are renamed."""
    old, new = built_in(0), built_in(1)
    if another:
        new = built_in(1, scorer="cosine")
    real, found = Path.replace, []
    for stop in range(9):
        folder, count = tmp_path / str(stop), 0
        old.save_pretrained(folder)

        def die(path: Path, target: Path, stop: int = stop) -> Path:
            nonlocal count
            count += 1
            if count > stop:
                raise KeyboardInterrupt
            return real(path, target)

        monkeypatch.setattr(Path, "replace", die)
        try:
            new.save_pretrained(folder)
        except KeyboardInterrupt:
            pass
        finally:
            monkeypatch.setattr(Path, "replace", real)
        try:
            loaded = Recommender.from_pretrained(folder)
        except InputError as error:
            assert "config.json is missing" in str(error)
            found.append("none")
            continue
        found.append("new" if type(loaded.scorer) is type(new.scorer) and equal(loaded, new) else "old")
        same(loaded, new if found[-1] == "new" else old)
        if count <= stop:
            break
    assert found == (["none", "none", "new"] if another else ["old", "new"])


def equal(first: Recommender, second: Recommender) -> bool:
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_a_model_card_says_what_lies_there_and_no_more(tmp_path: Path) -> None:
    built_in().save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "library_name: latentloop" in card and "from_pretrained" in card
    assert "pushed" not in card


@dataclasses.dataclass(frozen=True)
class OwnBackbone:
    """A user's own backbone, by the protocol."""

    def blocks(self, dim: int, max_length: int) -> tuple[nn.Module, nn.Module]:
        return nn.GRU(dim, dim, batch_first=True), nn.Linear(dim, dim)

    def base(self, dim: int, max_length: int) -> nn.Module:
        return nn.GRU(dim, dim, batch_first=True)


@pytest.mark.parametrize(
    ("backbone", "own"),
    [
        (OwnBackbone(), {}),
        (OwnBackbone(), {"loop": False}),
        (SASRec(1, 1, heads=1, inner=8), {"depth_law": OneDepth()}),
    ],
)
def test_what_json_cannot_name_is_passed_back(backbone: Any, own: dict[str, Any], tmp_path: Path) -> None:
    def made() -> Recommender:
        return build_recommender(backbone, NUM_ITEMS, dim=DIM, max_length=MAX_LENGTH, **own).eval()

    model = made()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["backbone"] is None
    with pytest.raises(InputError, match="your own encoder: pass it again as encoder="):
        Recommender.from_pretrained(tmp_path)
    history = ragged(0)
    assert torch.equal(
        Recommender.from_pretrained(tmp_path, encoder=made().encoder).score(history), model.score(history)
    )


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan"), float("inf")])
def test_a_temperature_must_be_above_zero(temperature: float) -> None:
    with pytest.raises(InputError, match="temperature must be a finite number above 0, got"):
        Cosine(temperature)
