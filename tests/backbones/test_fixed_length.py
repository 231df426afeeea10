"""What FMLP-Rec's and BSARec's blocks declare, what they do not, and whole models around them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latentloop.adapt import adapt
from latentloop.backbones.bsarec import BSARec
from latentloop.backbones.fmlprec import FMLPRec
from latentloop.blocks.facts import Facts, facts
from latentloop.errors import InputError
from latentloop.recipes import BACKBONES, build_recommender
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth
from tests.backbones.precision import default_precision
from tests.core.worlds import DIM, MAX_LENGTH, NUM_ITEMS, fewer, ragged, seeds

Config = type[FMLPRec] | type[BSARec]
each = pytest.mark.parametrize("config", [FMLPRec, BSARec])
NORMS = st.sampled_from(["pre", "post"])


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    with default_precision(torch.float64):
        yield


def block(config: Config, seed: int, **settings: Any) -> Any:
    """A block of two layers in eval mode, whose every parameter is drawn."""
    torch.manual_seed(seed)
    made = config(pre_layers=2, inner=12, **settings).blocks(DIM, MAX_LENGTH)[0].eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def model(config: Config, seed: int, *, loop: bool = True, dropout: float = 0.5, **settings: Any) -> Recommender:
    torch.manual_seed(seed)
    backbone = config(pre_layers=1, core_layers=2, inner=12, dropout=dropout, **settings)
    options: dict[str, Any] = {"dim": DIM, "max_length": MAX_LENGTH, "init_std": 0.5, "dropout": dropout}
    return build_recommender(backbone, NUM_ITEMS, loop=loop, **options).eval()


def rows(seed: int) -> tuple[Tensor, Tensor]:
    """Rows of MAX_LENGTH positions and their padding mask, as the recommender makes it."""
    padding = ragged(seed)[:, -MAX_LENGTH:] == 0
    padding[:, -1] = False
    torch.manual_seed(seed + 1)
    return torch.randn(*padding.shape, DIM), padding


@each
def test_facts(config: Config) -> None:
    for padding, packed in (("zero", True), ("keep", False)):
        for made in config(padding=padding).blocks(DIM, MAX_LENGTH):
            assert facts(made) == facts(adapt(made)) == Facts(fixed_length=True, packed=packed, capturable=packed)
    assert config in BACKBONES.values()


@each
@pytest.mark.parametrize("length", [MAX_LENGTH - 1, MAX_LENGTH + 1])
def test_rows_of_another_length_are_refused_in_one_line(config: Config, length: int) -> None:
    made, kept, x = block(config, 0), block(config, 0, padding="keep"), torch.randn(2, length, DIM)
    message = rf"^{type(made).__name__} is made for rows of max_length = {MAX_LENGTH} positions, got {length}: [^\n]+$"
    for call in (made, made.last, adapt(made), kept):
        with pytest.raises(InputError, match=message):
            call(x)
    with pytest.raises(InputError, match=message):
        Recommender(NUM_ITEMS, RecurrentDepth(kept, kept), DIM, length).think(ragged(0))


@each
@pytest.mark.parametrize("told", [True, False])
def test_packed_rows_longer_than_the_block_are_refused_in_one_line(config: Config, told: bool) -> None:
    made, long = block(config, 0), MAX_LENGTH + 1
    message = (
        rf"^{type(made).__name__} is made for rows of at most max_length = {MAX_LENGTH} tokens, got {long}: [^\n]+$"
    )
    context: dict[str, Any] = {"offsets": torch.tensor([0, 2, 2 + long]), "max_length": long if told else None}
    for call in (made, made.last):
        with pytest.raises(InputError, match=message):
            call(torch.randn(2 + long, DIM), **context)
    with pytest.raises(InputError, match=message):
        Recommender(NUM_ITEMS, RecurrentDepth(made, made), DIM, long).think(ragged(0))


@each
@given(seed=seeds, norm=NORMS)
def test_not_causal_a_later_item_changes_earlier_positions(config: Config, seed: int, norm: str) -> None:
    made, (x, _) = block(config, seed, norm=norm), rows(seed)
    changed = x.clone()
    changed[:, -1] += torch.randn(DIM)
    moved = (made(changed) - made(x)).abs().amax((0, 2))
    assert bool((moved > 1e-5).all())


@each
@given(seed=seeds, norm=NORMS, told=st.booleans())
def test_packed_equals_padded_in_values_and_gradients(config: Config, seed: int, norm: str, told: bool) -> None:
    made, (x, padding) = block(config, seed, norm=norm), rows(seed)
    x.requires_grad_()
    lengths = (~padding).sum(1)
    context: dict[str, Any] = {"offsets": nn.functional.pad(lengths.cumsum(0), (1, 0))}
    context["max_length"] = int(lengths.max()) if told else None
    padded, packed = made(x, padding_mask=padding)[~padding], made(x[~padding], **context)
    last = made.last(x[~padding], **context)
    torch.testing.assert_close(packed, padded)
    torch.testing.assert_close(last, packed[context["offsets"][1:] - 1])
    for one, other in ((packed, padded), (last, made.last(x, padding_mask=padding))):
        pairs = (torch.autograd.grad((y**3).sum(), [x, *made.parameters()], retain_graph=True) for y in (one, other))
        for found, wanted in zip(*pairs, strict=True):
            torch.testing.assert_close(found, wanted)


@each
def test_kept_padding_takes_no_packed_tokens(config: Config) -> None:
    """What stands at padding acts on every answer, and packed tokens have none."""
    made = block(config, 0, padding="keep")
    offsets = torch.tensor([0, 2, 5])
    for call in (made, made.last):
        with pytest.raises(InputError, match=rf"^{type(made).__name__} with padding='keep' takes no packed tokens"):
            call(torch.randn(5, DIM), offsets=offsets)


@each
@given(seed=seeds, norm=NORMS)
def test_what_padding_holds_changes_nothing_unless_it_is_kept(config: Config, seed: int, norm: str) -> None:
    x, padding = rows(seed)
    other = torch.where(padding[..., None], 100 * torch.randn_like(x), x)
    made = block(config, seed, norm=norm)
    one, two = (made(v, padding_mask=padding) for v in (x, other))
    torch.testing.assert_close(one[~padding], two[~padding])
    assert bool(padding.any())  # one row is empty
    keep = block(config, seed, norm=norm, padding="keep")
    one, two = (keep(v, padding_mask=padding) for v in (x, other))
    assert not torch.allclose(one[~padding], two[~padding], atol=1e-3)


@each
@given(seed=seeds)
def test_not_pad_invariant_longer_padding_is_another_signal(config: Config, seed: int) -> None:
    x, padding = rows(seed)
    made = config(pre_layers=2, inner=12)
    short, long = (made.blocks(DIM, length)[0].eval() for length in (MAX_LENGTH, MAX_LENGTH + 2))
    with torch.no_grad():
        for one, other in zip(short.parameters(), long.parameters(), strict=True):
            other.copy_(one if one.shape == other.shape else torch.cat([one, torch.randn_like(one[:1])]))
    longer, longer_padding = nn.functional.pad(x, (0, 0, 2, 0)), nn.functional.pad(padding, (2, 0), value=True)
    one, two = short(x, padding_mask=padding), long(longer, padding_mask=longer_padding)[:, 2:]
    assert not torch.allclose(one[~padding], two[~padding], atol=1e-4)


@each
@given(seed=seeds, norm=NORMS, padding=st.sampled_from(["zero", "keep"]))
def test_last_is_the_newest_position_of_forward(config: Config, seed: int, norm: str, padding: str) -> None:
    made, (x, mask) = block(config, seed, norm=norm, padding=padding), rows(seed)
    for padding_mask in (mask, None):
        wanted, found = made(x, padding_mask=padding_mask)[:, -1], made.last(x, padding_mask=padding_mask)
        torch.testing.assert_close(found, wanted)


@each
def test_dropout_acts_in_training_only(config: Config) -> None:
    made, (x, mask) = block(config, 0), rows(0)
    for call in (made, made.last):
        assert torch.equal(call(x, padding_mask=mask), call(x, padding_mask=mask))
        made.train()
        assert not torch.allclose(call(x, padding_mask=mask), call(x, padding_mask=mask))
        made.eval()


@each
@fewer
@given(seed=seeds, depth=st.integers(1, 4), norm=NORMS, loop=st.booleans())
def test_gradients_reach_every_parameter_at_every_depth(
    config: Config, seed: int, depth: int, norm: str, loop: bool
) -> None:
    made, history = model(config, seed, norm=norm, loop=loop), ragged(seed)
    thoughts = made.think(history, depth=depth if loop else 1)
    assert thoughts.steps.shape == (depth if loop else 1, len(history), DIM)
    (thoughts.final * torch.randn(DIM)).square().sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().sum()) > 0, name


@each
@fewer
@given(seed=seeds)
def test_an_answer_depends_on_neither_length_nor_neighbours_nor_the_start_state_of_padding(
    config: Config, seed: int
) -> None:
    made, history = model(config, seed), ragged(seed)
    wanted = made.think(history).steps
    for row in range(len(history)):
        real = max(1, int((history[row] != 0).sum()))
        alone = made.think(history[row : row + 1, -real:]).steps
        torch.testing.assert_close(alone[:, 0], wanted[:, row])
    start = torch.randn(len(history), MAX_LENGTH, DIM)  # what stands at padding is dropped with it
    padding = history[:, -MAX_LENGTH:] == 0
    padding[:, -1] = False
    other = torch.where(padding[..., None], 100 * torch.randn_like(start), start)
    one, two = (made.think(history[:, -MAX_LENGTH:], state=state).steps for state in (start, other))
    torch.testing.assert_close(one, two)


@each
def test_thoughts_are_prefixes_of_deeper_ones(config: Config) -> None:
    made, history = model(config, 0), ragged(0)
    deep = made.think(history, depth=5).steps
    for depth in (1, 3):
        torch.testing.assert_close(made.think(history, depth=depth).steps, deep[:depth])


@each
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_bf16_autocast_trains_and_stays_near(config: Config, norm: str) -> None:
    with default_precision(torch.float32):
        made, history = model(config, 0, norm=norm, dropout=0.0), ragged(0)
        own, (x, mask) = block(config, 0, norm=norm), rows(0)
    wanted = made.think(history).final.detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made.think(history).final
        assert bool(own(x.bfloat16(), padding_mask=mask).isfinite().all())
    found.float().square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in made.parameters())
    near = nn.functional.cosine_similarity(found.detach().float(), wanted, dim=-1)
    assert float(near.min()) > 0.995 and not torch.equal(found.float(), wanted)
    assert own.bfloat16()(x.bfloat16(), padding_mask=mask).dtype == torch.bfloat16


@each
@pytest.mark.parametrize("loop", [True, False])
def test_a_model_directory_gives_the_same_bits(config: Config, loop: bool, tmp_path: Path) -> None:
    with default_precision(torch.float32):
        made, history = model(config, 3, loop=loop, padding="keep", norm="post"), ragged(3)
    made.save_pretrained(tmp_path)
    with default_precision(torch.float32):
        loaded = Recommender.from_pretrained(tmp_path)
    assert loaded.backbone == made.backbone
    assert torch.equal(loaded.score(history), made.score(history))
