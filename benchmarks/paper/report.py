"""Tables and figures from the finished cells; nothing is trained.

python -m benchmarks.paper.report      # writes benchmarks/results/paper.md and one figure an experiment
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.paper.costs import COSTS, stored_costs
from benchmarks.paper.figures import draw
from benchmarks.paper.followed import followers_table
from benchmarks.paper.grids import EXPERIMENTS
from benchmarks.paper.steps import STEPS, stored_steps
from benchmarks.paper.stored import CELLS, finished
from benchmarks.paper.tables import experiment_table, gradient_table, steps_table, thinking_table, tuning_tables

__all__ = ["write_report"]

OUT = Path("benchmarks/results")

_PREAMBLE = (
    "Leave-one-out, full ranking of all items, history kept, chosen on validation NDCG@10, tested once. Means over seeds",
    "with their standard deviation. Against: the relative difference of test NDCG@10 to the row that is named, over the",
    "seeds of both, with its 95 % interval and p of a paired t-test over users of the seeds' means: with fewer than three",
    "seeds another seed may say otherwise. The paper's numbers are test NDCG@10 and Recall@10, where the data are the same.",
    "Table 4's operations are those of the encoder on a history of 20 items, a multiplication and an addition counted as",
    "two (the paper seems to count one); its times and peaks of memory are for 1,024 histories on a CPU, encoded and",
    "scored against all items, one thread's own time, by `python -m benchmarks.paper.costs`; a ratio is LARES' time by",
    "that of the SASRec of as many layers, median and extremes of paired turns. Written by `make paper` from",
    "`benchmarks/results/cells/`, whose lines hold each cell's whole configuration, and `benchmarks/results/costs.jsonl`.",
)


def write_report(cells: Path = CELLS, out: Path = OUT, costs: Path = COSTS, steps: Path = STEPS) -> str:
    """Write `paper.md` and the figures, and return the text."""
    lines, measured, classes = finished(cells), stored_costs(costs), stored_steps(steps)
    names = sorted({line["cell"]["data"] for line in lines.values()} | {data for data, _ in measured})
    text = ["# The paper's experiments, as far as they have been run", "", *_PREAMBLE, ""]
    out.mkdir(parents=True, exist_ok=True)
    for name in EXPERIMENTS:
        for data in names:
            if name == "tuning":
                text += tuning_tables(data, lines)
                continue
            table = experiment_table(name, data, lines, measured)
            path = draw(name, data, lines, out)
            text += table + ([f"![{name} on {data}]({path.name})", ""] if path else [])
            if name == "study":
                text += followers_table(data, lines) + followers_table(data, lines, exclude_history=True)
                text += steps_table(data, lines, classes)
                text += gradient_table(data, lines) + thinking_table(data, lines)
    written = "\n".join(text)
    (out / "paper.md").write_text(written)
    return written


if __name__ == "__main__":
    print(write_report())
