"""Dropout switched off for a while, in whatever form a module has it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latentloop.modes.dropout import dropout_off, evaluating, may_drop
from latentloop.modes.recomputing import recomputing


class Functional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, self.training)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.attention(x, x, x)[0]
        return mixed


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 8, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        read: Tensor = self.rnn(x)[0]
        return read


class DroppingLayer(nn.TransformerEncoderLayer):
    """These three drop by their mode in a forward of their own, beside what torch's own classes drop."""

    def __init__(self) -> None:
        super().__init__(8, 2, 8, 0.5, batch_first=True)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, self.training), *args, **kwargs)


class DroppingAttention(nn.MultiheadAttention):
    def __init__(self) -> None:
        super().__init__(8, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mixed: Tensor = super().forward(x, x, nn.functional.dropout(x, 0.5, self.training))[0]
        return mixed


class DroppingGRU(nn.GRU):
    def __init__(self) -> None:
        super().__init__(8, 8, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        read: Tensor = super().forward(nn.functional.dropout(x, 0.5, self.training))[0]
        return read


class DroppingInside(nn.TransformerEncoderLayer):
    """Its forward is torch's, a part of it is not."""

    def __init__(self) -> None:
        super().__init__(8, 2, 8, 0.5, batch_first=True)

    def _ff_block(self, x: Tensor) -> Tensor:
        return super()._ff_block(nn.functional.dropout(x, 0.5, self.training))


class DroppingModule(nn.MultiheadAttention):
    """What torch has as a rate is a module here."""

    def __init__(self) -> None:
        super().__init__(8, 2, batch_first=True)
        self.dropout = nn.Dropout(0.5)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        dropped: Tensor = self.dropout(x)  # type: ignore[operator]
        return dropped @ self.in_proj_weight[:8].T


def hooked() -> nn.Module:
    module = nn.GRU(8, 8, batch_first=True)
    module.register_forward_hook(lambda part, given, found: nn.functional.dropout(found[0], 0.5, part.training))
    return module


def patched() -> nn.Module:
    module = nn.TransformerEncoderLayer(8, 2, 8, 0.5, batch_first=True)
    feed_forward = module._ff_block
    module._ff_block = lambda x: nn.functional.dropout(feed_forward(x), 0.5, module.training)  # type: ignore[method-assign]
    return module


class Named(nn.GRU):
    """A class of one's own whose code is torch's."""

    def __init__(self) -> None:
        super().__init__(8, 8, 2, dropout=0.5, batch_first=True)


MODULES = [
    DroppingLayer,
    DroppingInside,
    DroppingModule,
    hooked,
    patched,
    DroppingAttention,
    DroppingGRU,
    lambda: nn.TransformerEncoder(DroppingLayer(), 2),
    lambda: nn.Dropout(0.5),
    Functional,
    Attention,
    Recurrent,
    lambda: nn.TransformerEncoderLayer(8, 2, 8, 0.5, batch_first=True),
    lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, 0.5, batch_first=True), 2),
]


class Merging(nn.Module):
    """Does more in `train` than set a flag, as adapters do that merge their weights for an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.frozen, self.merged = nn.Dropout(0.5), nn.Dropout(0.5), False

    def train(self, mode: bool = True) -> Merging:
        self.merged = not mode
        return super().train(mode)


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_gives_every_mode_back_by_the_modules_own_way(training: bool) -> None:
    module = nn.Sequential(Merging(), nn.Linear(2, 2)).train(training)
    module[0].frozen.eval()
    modes = [part.training for part in module.modules()]
    with pytest.raises(KeyError), evaluating(module):
        assert module[0].merged and not any(part.training for part in module.modules())
        raise KeyError
    assert module[0].merged is not training
    assert [part.training for part in module.modules()] == modes


@pytest.mark.parametrize("make", MODULES)
def test_it_is_off_inside_and_as_before_outside(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module, x = make().train(), torch.randn(3, 4, 8)
    assert not torch.equal(module(x), module(x))
    modes = [part.training for part in module.modules()]
    with pytest.raises(KeyError), dropout_off(module):
        inside = module(x)
        assert torch.equal(inside, module(x))
        with torch.no_grad():
            without = module(x)
        if make is Recurrent:  # on a CPU an LSTM has a kernel of its own where nothing is differentiated
            torch.testing.assert_close(inside, without)
        else:
            assert torch.equal(inside, without)
        raise KeyError
    assert [part.training for part in module.modules()] == modes
    assert not torch.equal(module(x), module(x))


@pytest.mark.parametrize("make", MODULES)
def test_a_checkpoint_recomputes_under_the_modes_of_its_forward_pass(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module, x = make().train(), torch.randn(3, 4, 8)
    plain, kept = x.clone().requires_grad_(), x.clone().requires_grad_()
    with dropout_off(module):
        expected = module(plain)
        found = checkpoint(module, kept, use_reentrant=False, context_fn=lambda: recomputing(module))
    modes = [part.training for part in module.modules()]
    expected.square().sum().backward()
    found.square().sum().backward()  # recomputes here, where dropout is on again
    assert plain.grad is not None
    torch.testing.assert_close(kept.grad, plain.grad)
    assert [part.training for part in module.modules()] == modes


def test_a_class_that_only_sets_up_keeps_its_mode() -> None:
    module = Named().train()
    with dropout_off(module):
        assert module.training and module.dropout == 0.0


class Asking(DroppingGRU):
    """Notes under which mode and with which kernels it is passed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, torch.backends.cudnn.enabled))
        return super().forward(x)


def test_kernels_are_off_for_a_pass_and_for_the_same_pass_made_again() -> None:
    module, x = Asking().train(), torch.randn(3, 4, 8, requires_grad=True)
    with dropout_off(module):
        found = checkpoint(module, x, use_reentrant=False, context_fn=lambda: recomputing(module))
    assert torch.backends.cudnn.enabled
    found.square().sum().backward()
    assert module.seen == [(False, False)] * 2
    assert torch.backends.cudnn.enabled and module.training


def test_kernels_are_off_until_the_last_is_out() -> None:
    first, last = dropout_off(Asking()), dropout_off(Asking())
    first.__enter__(), last.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.cudnn.enabled
    last.__exit__(None, None, None)
    assert torch.backends.cudnn.enabled


def test_threads_that_evaluate_at_once_leave_the_mode_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    module[0].eval()
    first, last = threading.Event(), threading.Event()

    def within() -> bool:
        with evaluating(module):
            first.set()
            last.wait(10)
            return module[1].training

    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(within)
        first.wait(10)
        with evaluating(module):
            assert not module.training
        assert not module[1].training  # somebody is still within
        last.set()
        assert early.result() is False
    assert [part.training for part in module.modules()] == [True, False, True]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)), False),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)), True),
        (nn.LSTM(2, 2, 2, dropout=0.0), False),
        (nn.LSTM(2, 2, 2, dropout=0.3), True),
        (nn.TransformerEncoderLayer(2, 1, 4, 0.0), False),
        (nn.TransformerEncoderLayer(2, 1, 4, 0.2), True),
        (Functional(), True),  # nobody can see what it does
    ],
)
def test_what_may_drop_something(module: nn.Module, expected: bool) -> None:
    assert may_drop(module) is expected


def test_whoever_evaluates_gets_eval_mode_even_if_somebody_trains_meanwhile() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).eval()
    with evaluating(module):
        module.train()
        with evaluating(module):
            assert not any(part.training for part in module.modules())
        assert not module.training  # somebody is still within
    assert all(part.training for part in module.modules())  # what was asked for last


def test_hooks_and_random_activations_may_differ() -> None:
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda part, inputs, output: nn.functional.dropout(output))
    assert may_drop(hooked) and may_drop(nn.RReLU()) and not may_drop(nn.ReLU())


class Always(nn.Dropout):
    """It drops in every mode, as in Monte Carlo dropout."""

    def train(self, mode: bool = True) -> Always:
        return super().train(True)


def test_a_part_that_always_trains_does_not_change_what_is_given_back() -> None:
    module = nn.Sequential(Always(0.5), nn.Linear(2, 2)).train()
    with evaluating(module), evaluating(module):
        assert not module[1].training
    assert all(part.training for part in module.modules())
    with evaluating(module):
        module[1].train()
        with evaluating(module):
            assert not module[1].training
    assert all(part.training for part in module.modules())
