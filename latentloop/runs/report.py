"""What a run prints and writes at its end: one table, and plain words on whether thinking helped."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from latentloop.files import write_atomically
from latentloop.measures.significance import caveat, compare
from latentloop.measures.tables import Row, results_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from latentloop.data.card import DataCard
    from latentloop.runs.directory import RunDirectory
    from latentloop.two_stage import Outcome, TwoStage

__all__ = ["print_report", "say", "verdicts", "write_report"]

_TITLES = {
    "chance": "chance", "popularity": "Popularity", "followers": "Followers", "base": "Base", "spt": "SPT", "rpt": "RPT",
}  # fmt: skip

_APART = 0.05
"""Difference of shares from which it is worth a word that models differ in it."""


def say(text: str) -> None:
    """Write a line of a command's result to standard output, where logs never go."""
    sys.stdout.write(text + "\n")


def print_report(result: TwoStage) -> None:
    """The table and the verdicts on standard output."""
    say(_table(result, markdown=False))
    say("")
    for verdict in verdicts(result):
        say(verdict)


def verdicts(result: TwoStage) -> list[str]:
    """What the numbers say about each part, in sentences; a difference that may be noise is called that."""
    outcomes = result.outcomes
    said: list[str] = []
    if "base" in outcomes:
        said.append(_compare("Thinking (SPT against Base)", outcomes["base"], outcomes["spt"]))
    if "rpt" in outcomes:
        if result.pretrained_won:
            said.append(
                "Post-training (RPT): no epoch beat the pre-trained model on validation, which stays the answer."
            )
        else:
            said.append(_compare("Post-training (RPT against SPT)", outcomes["spt"], outcomes["rpt"]))
        kept = result.kept_samples / max(1, result.train_samples)
        said.append(
            f"Post-training saw {result.kept_samples:,} of {result.train_samples:,} training samples ({kept:.0%})."
        )
    elif result.kept_samples == 0:
        said.append("Post-training (RPT): not run, no training sample had its target near the top.")
    else:
        said.append("Post-training (RPT): not run.")
    answer = "rpt" if "rpt" in outcomes and not result.pretrained_won else "spt"
    against = f"Learning ({_TITLES[answer]} against Followers, which counts what follows what)"
    said.append(_compare(against, outcomes["followers"], outcomes[answer]))
    return said + _repeats(outcomes)


def write_report(result: TwoStage, run: RunDirectory, card: DataCard, *, seed: int) -> None:
    """`report.md` in the run directory, with a figure of the validation curves where matplotlib is installed."""
    figure = _figure(result, run.path) if find_spec("matplotlib") else None
    parts = [
        "# Results",
        f"Data: {card.text()}. Seed: {seed}. One seed is one draw: repeat with others before a claim.",
        _table(result, markdown=True),
        "\n".join(f"* {verdict}" for verdict in verdicts(result)),
        "## Stages",
        "\n".join(f"* {line}" for line in _stages(result)),
    ]
    if figure is not None:
        parts.append(f"![Validation NDCG@10 by epoch]({figure.name})")
    with write_atomically(run.report_path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _table(result: TwoStage, *, markdown: bool) -> str:
    rows = [Row.of(_TITLES[name], outcome.validation, outcome.test) for name, outcome in result.outcomes.items()]
    return results_table(rows, ("recall@5", "recall@10", "ndcg@5", "ndcg@10"), markdown=markdown)


def _compare(what: str, before: Outcome, after: Outcome) -> str:
    old, new = before.test.metrics["ndcg@10"], after.test.metrics["ndcg@10"]
    change = f"{(new / old - 1):+.1%}" if old > 0 else "from 0"
    if after.test.protocol.users < 2:
        return f"{what}: test NDCG@10 {old:.4f} -> {new:.4f} ({change}; one user, which says nothing of others)."
    test = compare(after.test, before.test, "ndcg@10")
    seeds = len(set(after.test.protocol.seeds))
    return (
        f"{what}: test NDCG@10 {old:.4f} -> {new:.4f} ({change}{caveat(seeds, test.p_t)}; paired test over "
        f"{test.users:,} users, p = {test.p_t:.2g})."
    )


def _repeats(outcomes: Mapping[str, Outcome]) -> list[str]:
    """How many first answers the users already have, and that this is compared too where it differs."""
    found = {_TITLES[name]: outcome.repeats for name, outcome in outcomes.items() if outcome.repeats is not None}
    if not found:
        return []
    shares = ", ".join(f"{repeats.first:.0%} by {title}" for title, repeats in found.items())
    one, firsts = next(iter(found.values())), [repeats.first for repeats in found.values()]
    differ = max(firsts) - min(firsts) >= _APART
    return [
        f"Repeats: the first answer is an item that the user already has for {shares}; so is {one.asked:.1%} of what "
        f"is asked for ({one.samples:,} test sample{'s' * (one.samples > 1)})."
        + " A ranking with the history kept compares this too, one with --exclude-history does not."
        * differ
    ]


def _stages(result: TwoStage) -> list[str]:
    lines = []
    for name, outcome in result.outcomes.items():
        fitted = outcome.fitted
        if fitted is None:
            continue
        seconds = sum(line.get("train_seconds", 0.0) for line in fitted.history)
        best = f"epoch {fitted.best_epoch}" if fitted.best_epoch else "the model as it came"
        lines.append(
            f"{_TITLES[name]}: {fitted.epochs} epochs, {seconds:.0f} s of training, best on validation: {best} "
            f"({fitted.metric} {fitted.best:.4f})"
        )
    return lines


def _figure(result: TwoStage, folder: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, outcome in result.outcomes.items():
        if outcome.fitted is not None:
            history = outcome.fitted.history
            axes.plot([line["epoch"] for line in history], [line["ndcg@10"] for line in history], label=_TITLES[name])
    axes.set_xlabel("epoch of the stage")
    axes.set_ylabel("validation NDCG@10")
    axes.legend()
    path = folder / "validation.png"
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path
