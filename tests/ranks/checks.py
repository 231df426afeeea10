"""What is computed both by one process and by several, to be compared; each check is called by all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latentloop.across_ranks import Share, processes_of
from latentloop.backbones.sasrec import SASRec
from latentloop.data.batch import batches
from latentloop.data.positives import SameTarget
from latentloop.data.splits import Split, leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.data.windows import Windows
from latentloop.depth import DepthLaw, FixedDepth, UniformDepth
from latentloop.evaluation import evaluate, weighted_ranks
from latentloop.finite import NotFinite
from latentloop.fitting.accelerator import allow_unused
from latentloop.fitting.row_gradients import row_gradients
from latentloop.fitting.step import StepModule, updates
from latentloop.fitting.step_terms import StepTerms
from latentloop.followers import Followers
from latentloop.objectives import (
    RPT,
    SPT,
    NDCGReward,
    NextItem,
    NextItemEverywhere,
    SampledNextItem,
    StepAlignment,
    TrajectoryAlignment,
    select,
    views_of,
)
from latentloop.recipes import build_recommender
from latentloop.recommender import Recommender
from latentloop.runs.directory import RunDirectory
from latentloop.training import fit

if TYPE_CHECKING:
    from accelerate import Accelerator

LENGTH = 6
ROWS = (7, 1)

OBJECTIVES: dict[str, Callable[[], Any]] = {
    "spt": lambda: SPT(alpha=0.4, gamma=0.6),
    "self": lambda: NextItem() + TrajectoryAlignment(positives="self", mask_same_target=False, similarity="dot"),
    "alignment": lambda: TrajectoryAlignment() + StepAlignment(),
    "sampled": lambda: SampledNextItem(9) + 0.5 * TrajectoryAlignment(),
    "everywhere": lambda: NextItemEverywhere() + 0.5 * StepAlignment(),
    "rpt": lambda: RPT(rollouts=3, reward=NDCGReward(10)),
    "hybrid": lambda: RPT(rollouts=3, reward=NDCGReward(10), policy="hybrid", updates=2, keep_kl=False),
    "by step": lambda: RPT(rollouts=3, reward=NDCGReward(10), ratio="step", kl="target", updates=2, own_depth=True),
}


def data() -> Split:
    return leave_one_out(synthetic_log(num_users=40, num_items=30, seed=1), LENGTH)


def small(split: Split, law: DepthLaw | None = None, dropout: float = 0.0, seed: int = 0) -> Recommender:
    torch.manual_seed(seed)
    backbone = SASRec(pre_layers=1, core_layers=1, inner=12, dropout=dropout)
    law = UniformDepth(2, 3) if law is None else law
    model = build_recommender(
        backbone, split.num_items, dim=8, max_length=LENGTH, dropout=dropout, depth_law=law, init_std=0.5
    )
    return model.double()


class Recorder(torch.optim.SGD):
    """Keeps the gradients that a step was taken with."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.05)
        self.names = dict(model.named_parameters())
        self.seen: list[dict[str, Tensor]] = []

    def step(self, closure: Any = None) -> None:
        zeros = {name: torch.zeros_like(parameter) for name, parameter in self.names.items()}
        found = {name: p.grad.to_dense().clone() for name, p in self.names.items() if p.grad is not None}
        self.seen.append(zeros | found)
        for parameter in self.names.values():
            if parameter.grad is not None:
                parameter.grad = parameter.grad.to_dense()
        super().step(closure)


def gradients(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """Of one step of each objective, on seven rows and on one; and the step's terms."""
    split, processes = data(), processes_of(accelerator)
    return {
        f"{name}, {rows} rows": _step(accelerator, split, OBJECTIVES[name](), rows, processes)
        for name in OBJECTIVES
        for rows in ROWS
    }


def _step(accelerator: Accelerator, split: Split, objective: Any, rows: int, processes: Any) -> dict[str, Any]:
    model = small(split)
    if hasattr(objective, "start"):
        objective.start(model)
    with torch.no_grad():  # away from the reference
        for number, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
            parameter += 0.1 * noise
    first = torch.arange(7 + 1)  # so the batch behind seven rows has one
    learned: Any = split.train.select(first)
    if "everywhere" in views_of(objective):
        windows = Windows.of(split.train)
        learned = Windows(windows.samples.select(first), windows.counts[first])
    batch = next(
        batches(
            learned,
            7,
            key=5,
            epoch=1,
            same_target=SameTarget(split.train) if "same_target" in views_of(objective) else False,
            rank=processes.rank,
            world=processes.world,
            start=ROWS.index(rows),
        )
    )
    module = StepModule(model, objective)
    allow_unused(accelerator)
    with row_gradients(model.item_table, module.sparse):
        module = accelerator.prepare(module)
    recorder, terms = Recorder(model), StepTerms(1, processes=processes)
    model.train()
    for number, found in enumerate(updates(module, model, objective, recorder, accelerator, batch, 100.0)):
        terms.add(number, found, batch.total, batch.share)
    return {"gradients": recorder.seen, "terms": terms.means(), "total": batch.total}


def gathering(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """Rows of all processes, also where some have none: the rows, and the gradient of a sum that each weighs."""
    processes, found = processes_of(accelerator), {}
    if processes.world == 1:
        return {}
    for total in (5, 4, 1):
        share = Share.of(total, rank=processes.rank, world=processes.world)
        own = torch.arange(total, dtype=torch.float64)[processes.rank :: processes.world]
        rows = (own if share.own else torch.full((1,), 99.0, dtype=torch.float64))[:, None].requires_grad_()
        gathered = share.gather(rows)
        (gathered[:, 0] * torch.arange(total) * (1 + processes.rank)).sum().backward()
        found[str(total)] = {"rows": gathered.detach(), "gradient": rows.grad, "factor": share.factor}
    return found


def ranking(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """Ranks of a validation part that no number of processes divides, and the samples that post-training keeps."""
    split, processes = data(), processes_of(accelerator)
    model = small(split)
    found = evaluate(model, split.validation, depths=[1, 2], batch_size=7, processes=processes)
    kept = select(model, split.train, cut=5, trials=2, key=3, batch_size=11, processes=processes)
    each = {str(depth): torch.stack([r.greater, r.ties]) for depth, r in found.depth_ranks.items()}
    options: dict[str, Any] = {"depths": [2], "bonus": Followers.of(split), "weights": (0.0, 3.0), "batch_size": 7}
    for weight, followed in weighted_ranks(model, split.validation, processes=processes, **options).items():
        each[f"followers * {weight}"] = torch.stack([followed[2].greater, followed[2].ties])
    return {"metrics": dict(found.metrics), "ranks": each, "kept": kept.rows}


class Listening:
    """A depth law that tells what it drew."""

    def __init__(self, law: DepthLaw) -> None:
        self.law, self.drawn = law, list[int]()
        self.inference_depth = law.inference_depth

    def sample(self, generator: torch.Generator) -> int:
        self.drawn.append(self.law.sample(generator))
        return self.drawn[-1]


def training(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """Both stages with a last batch of one row, at drawn depths and at depth 1; when they stop, and where they end."""
    split, found = data(), {}
    train = split.train.select(torch.arange(2 * 32 + 1))
    for name, law, objective in (
        ("spt", UniformDepth(1, 3), SPT()),
        ("depth 1", FixedDepth(1), SPT()),
        ("rpt", UniformDepth(1, 3), RPT(rollouts=2, updates=2)),
        ("sampled", UniformDepth(1, 3), SPT(next_item=SampledNextItem(9))),
    ):
        heard = Listening(law)
        model = small(split, heard)
        settings = {"epochs": 6, "patience": 1, "batch_size": 32, "learning_rate": 0.02, "validate_first": True}
        fitted = fit(model, train, split.validation, objective, accelerator=accelerator, progress_bar=False, **settings)
        lines = [{n: v for n, v in line.items() if "seconds" not in n and "per" not in n} for line in fitted.history]
        found[name] = {
            "depths": heard.drawn,
            "lines": lines,
            "best": fitted.best_epoch,
            "weights": {name: value.clone() for name, value in model.state_dict().items()},
        }
    return found


def resuming(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """Weights of a stage in one go, and of one that stopped after its first epoch, with dropout."""
    split, found, paths = data(), {}, {}
    for name, limits in (("whole", [2]), ("resumed", [1, 2])):
        paths[name] = RunDirectory(folder / name)
        if accelerator.is_main_process:
            RunDirectory.create(folder / name, {})
        accelerator.wait_for_everyone()
        for epochs in limits:
            model = small(split, dropout=0.3)
            fit(
                model, split.train, split.validation, SPT(), epochs=epochs, batch_size=64, learning_rate=0.01,
                accelerator=accelerator, run=paths[name], progress_bar=False,
            )  # fmt: skip
        found[name] = {name: value.clone() for name, value in model.state_dict().items()}
    accelerator.wait_for_everyone()
    return found | {"lines": [len(run.lines.read()) for run in paths.values()]}


def breaking(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """What is said where the last process alone meets a number that is none, in its second step."""
    split, steps = data(), 0
    last = processes_of(accelerator).rank == accelerator.num_processes - 1

    def broken(views: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal steps
        steps += 1
        loss, terms = NextItem()(views, batch)
        return loss * (float("nan") if steps == 2 and last else 1.0), terms

    settings = {"batch_size": 32, "accelerator": accelerator, "progress_bar": False}
    try:
        fit(small(split), split.train, split.validation, broken, **settings)
    except NotFinite as error:
        return {"said": str(error)}
    return {"said": ""}


def beginning(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """The weights that models drawn apart end a stage of no epochs with."""
    split = data()
    model = small(split, seed=accelerator.process_index)
    fit(model, split.train, split.validation, SPT(), epochs=0, accelerator=accelerator, progress_bar=False)
    return {name: value.clone() for name, value in model.state_dict().items()}


CHECKS: dict[str, Callable[[Any, Path], dict[str, Any]]] = {
    check.__name__: check for check in (gradients, gathering, ranking, training, resuming, breaking, beginning)
}
