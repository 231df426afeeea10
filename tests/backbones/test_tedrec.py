"""TedRec's parts against loops in NumPy, what its blocks declare and do not, and whole models around them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latentloop.adapt import adapt
from latentloop.backbones.spectral_fusion import SpectralFusion
from latentloop.backbones.tedrec import TedRec, TedRecBlock
from latentloop.backbones.text_adaptor import TextAdaptor
from latentloop.backbones.text_table import TextTable
from latentloop.blocks.facts import Facts, facts
from latentloop.errors import InputError
from latentloop.items.text_features import TextFeatures
from latentloop.recipes import BACKBONES, build_recommender
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth
from latentloop.scoring import Cosine
from tests.core.test_sasrec import naive as naive_encoder
from tests.core.worlds import DIM, MAX_LENGTH, NUM_ITEMS, fewer, ragged, seeds, unchecked

TEXT_DIM, EXPERTS = 5, 3
NORMS = st.sampled_from(["pre", "post"])


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def in_single(in_double: None) -> Iterator[None]:
    torch.set_default_dtype(torch.float32)
    yield


def texts(seed: int, *, missing: int = 3, num_items: int = NUM_ITEMS) -> TextFeatures:
    """Embeddings of items, `missing` of which have none."""
    drawn = torch.Generator().manual_seed(seed)
    features = torch.randn(num_items + 1, TEXT_DIM, generator=drawn, dtype=torch.float32)
    without = torch.zeros(num_items + 1, dtype=torch.bool)
    without[1 + torch.randperm(num_items, generator=drawn)[:missing]] = True
    features[without] = 0
    features[0] = 0
    return TextFeatures(features, without)


def stirred(module: Any, by: float = 0.3) -> Any:
    """The module in eval mode, every parameter moved: gates and shifts start at zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module.eval()


def config(seed: int, **settings: Any) -> TedRec:
    chosen = {"pre_layers": 1, "core_layers": 2, "inner": 12, "experts": EXPERTS, **settings}
    return TedRec(text=texts(seed), **chosen)


def block(seed: int, **settings: Any) -> TedRecBlock:
    torch.manual_seed(seed)
    made: TedRecBlock = stirred(config(seed, **settings).blocks(DIM, MAX_LENGTH)[0])
    return made


def model(seed: int, *, loop: bool = True, dropout: float = 0.5, **settings: Any) -> Recommender:
    torch.manual_seed(seed)
    options: dict[str, Any] = {"dim": DIM, "max_length": MAX_LENGTH, "init_std": 0.5, "dropout": dropout}
    made: Recommender = stirred(
        build_recommender(config(seed, dropout=dropout, **settings), NUM_ITEMS, loop=loop, **options)
    )
    return made


def rows(seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Embedded rows of MAX_LENGTH positions, and the context that the recommender makes."""
    history = ragged(seed)[:, -MAX_LENGTH:]
    padding = history == 0
    padding[:, -1] = False
    torch.manual_seed(seed + 1)
    return torch.randn(*padding.shape, DIM), {"history": history, "padding_mask": padding}


def array(tensor: Tensor) -> np.ndarray:
    found: np.ndarray = tensor.detach().double().numpy()
    return found


def sigmoid(value: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-value))
    return found


def naive_adaptor(made: TextAdaptor, text: np.ndarray) -> np.ndarray:
    """(L, c) -> (L, d), one position and one expert at a time, as the paper writes it."""
    shift, weight, gate = array(made.shift), array(made.weight), array(made.gate)
    found = []
    for place, own in enumerate(text):
        logits = own @ gate
        share = np.exp(logits) / np.exp(logits).sum()
        moved = shift[place if len(shift) > 1 else 0]
        found.append(sum(share[k] * ((own + moved[k]) @ weight[k]) for k in range(len(weight))))
    return np.stack(found)


def naive_fusion(made: SpectralFusion, items: np.ndarray, text: np.ndarray) -> np.ndarray:
    """(L, d), (L, d) -> (L, d) in the time domain: both products of spectra are circular convolutions."""
    length = len(items)
    weights = array(made.filter)[..., 0] + 1j * array(made.filter)[..., 1]
    kernel = np.zeros_like(items)
    for lag in range(length):
        for k, component in enumerate(weights):
            alone = k == 0 or 2 * k == length  # else its conjugate stands for frequency L - k
            kernel[lag] += (1 if alone else 2) * (component * np.exp(2j * np.pi * k * lag / length)).real / length
            if alone:
                kernel[lag] -= (1j * component.imag * np.exp(2j * np.pi * k * lag / length)).real / length

    def gate(module: Any, v: np.ndarray) -> np.ndarray:
        return v * sigmoid(v @ array(module.weight)[0] + array(module.bias))[:, None]

    items, text = gate(made.item_gate, items), gate(made.text_gate, text)
    found = np.zeros_like(items)
    for now in range(length):
        for then in range(length):
            lag = (now - then) % length
            found[now] += items[then] * (kernel[lag] + text[lag] / np.sqrt(length))
    return found


def naive_block(made: TedRecBlock, x: np.ndarray, history: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """One row; what stands at padded positions is no output."""
    norm = made.fusion_norm

    def normed(v: np.ndarray) -> np.ndarray:
        centred = v - v.mean(-1, keepdims=True)
        scaled: np.ndarray = centred / np.sqrt(v.var(-1, keepdims=True) + 1e-5)
        return scaled * array(norm.weight) + array(norm.bias)

    table, learned = array(made.text.features), array(made.text.missing)
    text = [learned[slot - 1] if (slot := int(made.text.slot[item])) else table[item] for item in history[~padding]]
    adapted = np.zeros_like(x)  # the oldest text first, whatever the padding
    adapted[: len(text)] = naive_adaptor(made.adaptor, np.stack(text))
    items = (normed(x) if made.pre_norm else x) * ~padding[:, None]
    fused = x + naive_fusion(made.fusion, items, adapted)
    fused = fused if made.pre_norm else normed(fused)
    found = np.zeros_like(x)
    found[~padding] = naive_encoder(made.encoder, fused[~padding])
    return found


@given(seed=seeds, positional=st.booleans())
def test_the_adaptor_is_the_naive_mixture(seed: int, positional: bool) -> None:
    torch.manual_seed(seed)
    made = stirred(TextAdaptor(TEXT_DIM, DIM, max_length=MAX_LENGTH, experts=EXPERTS, positional=positional))
    assert made.shift.shape == (MAX_LENGTH if positional else 1, EXPERTS, TEXT_DIM)
    text, places = torch.randn(7, TEXT_DIM), torch.randint(0, 7, (4, MAX_LENGTH))
    found = made(text, places)
    for row, where in enumerate(places):
        np.testing.assert_allclose(array(found[row]), naive_adaptor(made, array(text[where])), rtol=1e-9, atol=1e-9)


@given(seed=seeds, length=st.integers(1, 9))
def test_the_fusion_is_two_circular_convolutions(seed: int, length: int) -> None:
    torch.manual_seed(seed)
    made = stirred(SpectralFusion(DIM, max_length=length))
    items, text = torch.randn(3, length, DIM), torch.randn(3, length, DIM)
    found = made(items, text)
    for row in range(3):
        wanted = naive_fusion(made, array(items[row]), array(text[row]))
        np.testing.assert_allclose(array(found[row]), wanted, rtol=1e-9, atol=1e-9)


@given(seed=seeds, norm=NORMS, positional=st.booleans())
def test_the_block_is_the_naive_block(seed: int, norm: str, positional: bool) -> None:
    made, (x, context) = block(seed, norm=norm, positional=positional), rows(seed)
    found = array(made(x, **context))
    for row in range(len(x)):
        padding = context["padding_mask"][row].numpy()
        wanted = naive_block(made, array(x[row]), context["history"][row].numpy(), padding)
        np.testing.assert_allclose(found[row][~padding], wanted[~padding], rtol=1e-8, atol=1e-8)


@given(seed=seeds)
def test_texts_are_the_same_whether_read_by_item_or_by_position(seed: int) -> None:
    made, (_, context) = block(seed), rows(seed)
    few, many = context["history"][:3], context["history"][:3].repeat(9, 1)
    assert few.numel() < NUM_ITEMS + 1 <= many.numel()
    torch.testing.assert_close(made.text_sequence(many)[:3], made.text_sequence(few))


def test_start_gates_are_even_and_shifts_zero() -> None:
    made = TextAdaptor(TEXT_DIM, DIM, max_length=MAX_LENGTH, experts=EXPERTS).eval()
    text, places = torch.randn(MAX_LENGTH, TEXT_DIM), torch.arange(MAX_LENGTH)[None]
    torch.testing.assert_close(made(text, places)[0], torch.einsum("nc,kcd->nd", text, made.weight) / EXPERTS)


@given(seed=seeds, factor=st.sampled_from([1e-3, 20.0]))
def test_one_scale_for_all_encoders(seed: int, factor: float) -> None:
    text = texts(seed)
    one, two = (
        TextTable(NUM_ITEMS, TEXT_DIM, num_missing=3, text=TextFeatures(scale * text.features, text.missing))
        for scale in (1.0, factor)
    )
    known = one.features[1:][~text.missing[1:]]
    assert float(known.square().mean()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(one.features.float(), two.features.float())
    ratio = known / text.features[1:][~text.missing[1:]]
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), rtol=1e-5, atol=1e-5)


@given(seed=seeds)
def test_items_without_text_learn_a_vector_each(seed: int) -> None:
    torch.manual_seed(seed)
    text = texts(seed)
    made = TextTable(NUM_ITEMS, TEXT_DIM, num_missing=3, text=text)
    found = made(torch.arange(NUM_ITEMS + 1))
    assert made.missing is not None and made.missing.shape == (3, TEXT_DIM)
    assert float(found[0].detach().abs().sum()) == 0
    torch.testing.assert_close(found[text.missing], made.missing)
    torch.testing.assert_close(found[~text.missing], made.features[~text.missing])
    first = int(text.missing.nonzero()[0])
    made(torch.tensor([0, first, 0])).sum().backward()
    assert made.missing.grad is not None
    assert made.missing.grad.abs().sum(1).tolist() == [TEXT_DIM, 0, 0]


@given(seed=seeds)
def test_the_table_is_not_trained(seed: int) -> None:
    made, (x, context) = block(seed, dropout=0.0).train(), rows(seed)
    before = made.text.features.clone()
    assert not made.text.features.requires_grad
    assert "text.features" not in dict(made.named_parameters()) and "text.features" in made.state_dict()
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.1, weight_decay=0.1)
    made(x, **context).square().sum().backward()
    optimizer.step()
    assert torch.equal(made.text.features, before)


def test_a_full_table_has_no_vectors_to_learn() -> None:
    made = TedRec(text=TextFeatures.of(torch.randn(NUM_ITEMS, TEXT_DIM))).blocks(DIM, MAX_LENGTH)[0]
    assert made.text.missing is None
    assert not [name for name, _ in made.named_parameters() if name.startswith("text.")]
    assert float(made.text(torch.tensor([0])).abs().sum()) == 0


@given(seed=seeds)
def test_the_output_depends_on_the_texts_of_the_row(seed: int) -> None:
    made, (x, context) = block(seed), rows(seed)
    wanted = made(x, **context)
    item = int(context["history"].max())
    made.text.features[item] += torch.randn(TEXT_DIM)
    if made.text.slot[item]:
        assert made.text.missing is not None
        with torch.no_grad():
            made.text.missing[made.text.slot[item] - 1] += 1
    has = (context["history"] == item).any(1)
    moved = (made(x, **context) - wanted).abs()[:, -1].amax(-1)
    assert bool((moved[has] > 1e-7).all()) and bool((moved[~has] == 0).all()) and bool(has.any())


def test_only_the_fusion_needs_a_fixed_length() -> None:
    pre, core = config(0).blocks(DIM, MAX_LENGTH)
    assert facts(pre) == facts(adapt(pre)) == Facts(fixed_length=True)
    assert facts(core) == Facts(causal=True, pad_invariant=True, packed=True, capturable=True)
    assert facts(config(0).base(DIM, MAX_LENGTH)) == Facts(fixed_length=True)
    loop = RecurrentDepth(pre, core)
    assert loop.fixed_length and not loop.packed
    assert BACKBONES["tedrec"] is TedRec


@given(seed=seeds, norm=NORMS)
def test_not_causal_a_later_item_changes_earlier_positions(seed: int, norm: str) -> None:
    made, (x, _) = block(seed, norm=norm), rows(seed)
    changed = x.clone()
    changed[:, -1] += torch.randn(DIM)
    history = torch.randint(1, NUM_ITEMS + 1, x.shape[:2])
    moved = (made(changed, history=history) - made(x, history=history)).abs().amax((0, 2))
    assert bool((moved > 1e-6).all())


@given(seed=seeds)
def test_not_pad_invariant_longer_padding_is_another_signal(seed: int) -> None:
    x, context = rows(seed)
    short, long = (stirred(config(seed).blocks(DIM, length)[0], 0.0) for length in (MAX_LENGTH, MAX_LENGTH + 2))
    with torch.no_grad():
        for one, other in zip(short.parameters(), long.parameters(), strict=True):
            other.copy_(one if one.shape == other.shape else torch.cat([one, torch.randn_like(other)[len(one) :]]))
    longer = {
        "history": nn.functional.pad(context["history"], (2, 0)),
        "padding_mask": nn.functional.pad(context["padding_mask"], (2, 0), value=True),
    }
    one, two = short(x, **context), long(nn.functional.pad(x, (0, 0, 2, 0)), **longer)[:, 2:]
    real = ~context["padding_mask"]
    assert not torch.allclose(one[real], two[real], atol=1e-4)


def test_not_packed() -> None:
    with pytest.raises(InputError, match="takes no packed tokens"):
        adapt(block(0))(torch.randn(5, DIM), offsets=torch.tensor([0, 2, 5]))


@given(seed=seeds, norm=NORMS)
def test_what_padding_holds_changes_nothing(seed: int, norm: str) -> None:
    made, (x, context) = block(seed, norm=norm), rows(seed)
    padding = context["padding_mask"]
    other = torch.where(padding[..., None], 100 * torch.randn_like(x), x)
    one, two = (made(v, **context) for v in (x, other))
    torch.testing.assert_close(one[~padding], two[~padding])


@given(seed=seeds, norm=NORMS)
def test_last_is_the_newest_position_of_forward(seed: int, norm: str) -> None:
    made, (x, context) = block(seed, norm=norm, pre_layers=2), rows(seed)
    torch.testing.assert_close(made.last(x, **context), made(x, **context)[:, -1])
    history = context["history"]
    torch.testing.assert_close(made.last(x, history=history), made(x, history=history)[:, -1])


@given(seed=seeds, norm=NORMS)
def test_the_encoder_gives_the_same_on_real_tokens_and_on_padded_rows(seed: int, norm: str) -> None:
    made, (x, context) = block(seed, norm=norm, pre_layers=2), rows(seed)
    padding = context["padding_mask"]
    fused = made._fused(x, context["history"], padding)
    wanted = made.encoder(fused, padding_mask=padding)
    torch.testing.assert_close(made(x, **context)[~padding], wanted[~padding])
    torch.testing.assert_close(made.last(x, **context), wanted[:, -1])


@pytest.mark.parametrize("noisy", [True, False])
def test_gates_are_noisy_while_training_only(noisy: bool) -> None:
    made, (x, context) = block(0, dropout=0.0, noisy_gates=noisy), rows(0)
    quiet = made(x, **context)
    assert torch.equal(quiet, made(x, **context))
    made.train()
    assert torch.equal(made(x, **context), quiet) is not noisy
    assert torch.equal(made(x, **context), made(x, **context)) is not noisy
    torch.manual_seed(5)
    one = made(x, **context)
    torch.manual_seed(5)
    assert torch.equal(one, made(x, **context))


def test_gate_noise_is_normal_with_the_learned_scale() -> None:
    torch.manual_seed(0)
    made = stirred(TextAdaptor(TEXT_DIM, DIM, max_length=1, experts=2, dropout=0.0)).train()
    text, count = torch.randn(1, TEXT_DIM), 40_000
    gates = made._gates(text, torch.zeros(count, 1, dtype=torch.int64))[:, 0]
    difference = gates.detach().log().diff(dim=1)  # what softmax leaves of the logits
    logits, scale = text @ made.gate, nn.functional.softplus(text @ made.noise)
    assert float(difference.mean()) == pytest.approx(float(logits.diff().detach()), abs=0.03)
    assert float(difference.std()) == pytest.approx(float(scale.norm().detach()), rel=0.02)


def test_dropout_acts_in_training_only() -> None:
    made, (x, context) = block(0, noisy_gates=False), rows(0)
    for call in (made, made.last):
        assert torch.equal(call(x, **context), call(x, **context))
        made.train()
        assert not torch.allclose(call(x, **context), call(x, **context))
        made.eval()


@fewer
@given(seed=seeds, depth=st.integers(1, 4), norm=NORMS, loop=st.booleans())
def test_gradients_reach_every_parameter_at_every_depth(seed: int, depth: int, norm: str, loop: bool) -> None:
    made, history = model(seed, norm=norm, loop=loop, dropout=0.0).train(), ragged(seed)
    history[:, -3:] = torch.randint(1, NUM_ITEMS + 1, (len(history), 3))
    history[0, -3:] = texts(seed).missing.nonzero()[:, 0]
    thoughts = made.think(history, depth=depth if loop else 1)
    assert thoughts.steps.shape == (depth if loop else 1, len(history), DIM)
    (thoughts.final * torch.randn(DIM)).square().sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().sum()) > 0, name


@fewer
@given(seed=seeds, loop=st.booleans())
def test_an_answer_depends_on_neither_length_nor_neighbours(seed: int, loop: bool) -> None:
    made, history = model(seed, loop=loop), ragged(seed)
    wanted = made.think(history).steps
    for row in range(len(history)):
        real = max(1, int((history[row] != 0).sum()))
        alone = made.think(history[row : row + 1, -real:]).steps
        torch.testing.assert_close(alone[:, 0], wanted[:, row])


@given(seed=seeds)
def test_a_packed_core_behind_a_fixed_length_pre_block_never_sees_padding(seed: int) -> None:
    made, history = model(seed), ragged(seed)[:, -MAX_LENGTH:]
    start = torch.randn(len(history), MAX_LENGTH, DIM)
    padding = history == 0
    padding[:, -1] = False
    other = torch.where(padding[..., None], 100 * torch.randn_like(start), start)
    one, two = (made.think(history, state=state, depth=3).steps for state in (start, other))
    torch.testing.assert_close(one, two)
    deep = made.think(history, state=start, depth=5).steps
    torch.testing.assert_close(deep[:3], one)


@pytest.mark.parametrize("loop", [True, False])
def test_an_empty_batch_has_no_thoughts(loop: bool) -> None:
    found = model(0, loop=loop).think(torch.zeros(0, 4, dtype=torch.int64))
    assert found.steps.shape[1:] == (0, DIM)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_bf16_autocast_trains_and_stays_near(norm: str, in_single: None) -> None:
    made, history = model(0, norm=norm, dropout=0.0), ragged(0)
    wanted = made.think(history).final.detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made.think(history).final
    found.float().square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in made.parameters())
    near = nn.functional.cosine_similarity(found.detach().float(), wanted, dim=-1)
    assert float(near.min()) > 0.99 and not torch.equal(found.float(), wanted)
    own, (x, context) = block(0, norm=norm).bfloat16(), rows(0)
    assert own(x.bfloat16(), **context).dtype == torch.bfloat16


@pytest.mark.parametrize("loop", [True, False])
def test_a_model_directory_needs_no_text_file_and_gives_the_same_bits(
    loop: bool, tmp_path: Path, in_single: None
) -> None:
    made, history = model(3, loop=loop, norm="post", positional=False), ragged(3)
    made.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())["backbone"]["settings"]
    assert settings["num_items"] == NUM_ITEMS and settings["num_missing"] == 3 and "text" not in settings
    loaded = Recommender.from_pretrained(tmp_path)
    assert loaded.backbone == made.backbone and loaded.backbone.text is None
    assert torch.equal(loaded.score(history), made.score(history))
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(Recommender.from_pretrained(tmp_path / "again").score(history), made.score(history))


def test_scores_are_cosines_unless_another_scorer_is_asked_for() -> None:
    made = model(0)
    assert made.scorer == Cosine(0.07)
    scores = made.score(ragged(0))
    assert float(scores.detach().abs().max()) <= 1 / 0.07 + 1e-4
    assert (
        type(build_recommender(config(0), NUM_ITEMS, dim=DIM, max_length=MAX_LENGTH, scorer="dot").scorer) is not Cosine
    )


def test_base_has_as_many_parameters_as_both_blocks() -> None:
    made = config(0, norm="post", pre_layers=1, core_layers=3)
    pre, core, base = *made.blocks(DIM, MAX_LENGTH), made.base(DIM, MAX_LENGTH)
    sizes = [sum(p.numel() for p in block.parameters()) for block in (pre, core, base)]
    assert sizes[0] + sizes[1] == sizes[2]
    assert [len(encoder.layers) for encoder in (pre.encoder, core, base.encoder)] == [1, 3, 4]


@pytest.mark.parametrize("length", [MAX_LENGTH - 1, MAX_LENGTH + 1])
def test_rows_of_another_length_are_refused_in_one_line(length: int) -> None:
    made, x = block(0), torch.randn(2, length, DIM)
    message = rf"^TedRecBlock is made for rows of max_length = {MAX_LENGTH} positions, got {length}: [^\n]+$"
    for call in (made, made.last, adapt(made)):
        with pytest.raises(InputError, match=message):
            call(x, history=torch.ones(2, length, dtype=torch.int64))


def test_a_backbone_without_text_says_so() -> None:
    with pytest.raises(InputError, match=r"TedRec\(text=TextFeatures"):
        TedRec()
    made = build_recommender(TedRec(num_items=NUM_ITEMS, text_dim=2, num_missing=0), NUM_ITEMS, dim=8, max_length=6)
    with pytest.raises(InputError, match=r"made without text: make its backbone as TedRec\(text="):
        made.think(ragged(0))


def test_sizes_that_disagree_with_the_text_are_refused() -> None:
    text = texts(0)
    for name, wrong in (("num_items", NUM_ITEMS + 1), ("text_dim", TEXT_DIM + 1), ("num_missing", 2)):
        with pytest.raises(InputError, match=f"^{name} is {wrong}, but text holds"):
            TedRec(text=text, **{name: wrong})  # type: ignore[arg-type]
    assert TedRec(text=text, num_items=NUM_ITEMS).num_missing == 3
    with pytest.raises(InputError, match="num_items is 9, but the backbone knows the texts of 23 items"):
        build_recommender(TedRec(text=text), 9)
    with pytest.raises(
        InputError, match="and 3 items without text; num_items, text_dim and num_missing say 23, 5 and 0"
    ):
        TextTable(NUM_ITEMS, TEXT_DIM, text=text)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"experts": 0}, "experts"),
        ({"heads": 3}, "heads"),
        ({"dropout": 1.0}, "dropout"),
        ({"pre_layers": 0}, "layers"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        config(0, **wrong).blocks(DIM, MAX_LENGTH)


def test_features_are_checked() -> None:
    good, none = torch.zeros(4, 2), torch.zeros(4, dtype=torch.bool)
    with unchecked():
        for features, missing, message in (
            (good[:1], none[:1], "for N items, got"),
            (good, none[:2], "for N items, got"),
            (good + torch.tensor([[0.0], [0.0], [torch.inf], [0.0]]), none, "row 2 is not"),
            (good + 1, none, "must be zeros for padding"),
            (torch.cat([good[:1], good[1:] + 1]), none | (torch.arange(4) == 2), "must be zeros for padding"),
        ):
            with pytest.raises(InputError, match=message):
                TextFeatures(features, missing)


@given(seed=seeds, length=st.integers(1, MAX_LENGTH))
def test_an_item_meets_its_text_at_positions_that_are_read(seed: int, length: int) -> None:
    """The oldest text alone scales items where they stand; both left-padded, it would push them into the padding."""
    made = block(seed)
    with torch.no_grad():
        made.fusion.filter.zero_()
    row = torch.randint(1, NUM_ITEMS + 1, (length,))
    history = nn.functional.pad(row, (MAX_LENGTH - length, 0))[None]
    padding, x = history == 0, torch.randn(1, MAX_LENGTH, DIM)
    met: list[Tensor] = []
    made.fusion.register_forward_hook(lambda module, inputs, output: met.extend([*inputs, output]))
    made(x, history=history, padding_mask=padding)
    items, text, fused = met
    assert torch.equal((text[0] != 0).any(1), torch.arange(MAX_LENGTH) < length)
    wanted = (items * made.fusion.item_gate(items).sigmoid())[0, -length] * (
        text * made.fusion.text_gate(text).sigmoid()
    )[0, 0]
    if 2 * length <= MAX_LENGTH + 1:  # else the end of the convolution wraps round to the oldest item
        torch.testing.assert_close(fused[0, -length], wanted / MAX_LENGTH**0.5)


def test_an_empty_batch_is_fused_to_an_empty_one() -> None:
    fusion = SpectralFusion(DIM, max_length=MAX_LENGTH)
    assert fusion(torch.zeros(0, MAX_LENGTH, DIM), torch.zeros(0, MAX_LENGTH, DIM)).shape == (0, MAX_LENGTH, DIM)


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ((0, 4, 0), "num_items must be a whole number of at least 1, got 0"),
        ((5, 2.5, 0), r"text_dim must be a whole number of at least 1, got 2\.5"),
        ((5, 4, True), "num_missing must be a whole number of at least 0, got True"),
    ],
)
def test_sizes_of_a_table_of_texts_are_whole_numbers(sizes: tuple[Any, Any, Any], named: str) -> None:
    num_items, dim, num_missing = sizes
    with unchecked(), pytest.raises(InputError, match=named):
        TextTable(num_items, dim, num_missing=num_missing)
