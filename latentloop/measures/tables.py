"""Results as tables, aligned for a terminal or in Markdown for a report, always with the protocol beneath."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from latentloop.errors import InputError
from latentloop.measures.metrics import parse_metric
from latentloop.measures.results import Evaluation, Protocol

__all__ = [
    "Row",
    "depth_table",
    "markdown_table",
    "metric_title",
    "protocol_line",
    "results_table",
    "subgroup_table",
    "text_table",
]

_MISSING = "-"
_BY_ROW = ("split", "stage", "depth", "seeds")  # what rows and columns of a results table say themselves


@dataclass(frozen=True)
class Row:
    """A line of the results table; a missing part or metric prints as "-".

    Args:
        name: what was measured, such as "SPT".
        validation: metrics by name, or None.
        test: metrics by name, or None.
        depth: thoughts before the answer; None where nothing thinks.
        protocols: of both parts, for the line beneath.
    """

    name: str
    validation: Mapping[str, float] | None = None
    test: Mapping[str, float] | None = None
    depth: int | None = None
    protocols: tuple[Protocol, ...] = ()

    @classmethod
    def of(cls, name: str, validation: Evaluation | None = None, test: Evaluation | None = None) -> Row:
        """A row from evaluations, which bring their depth and protocol along."""
        given = [evaluation for evaluation in (validation, test) if evaluation is not None]
        return cls(
            name,
            None if validation is None else validation.metrics,
            None if test is None else test.metrics,
            given[0].protocol.depth if given else None,
            tuple(evaluation.protocol for evaluation in given),
        )


def results_table(
    rows: Sequence[Row],
    metrics: Sequence[str] = ("recall@10", "ndcg@10"),
    *,
    markdown: bool = False,
    protocol: str | None = None,
) -> str:
    """The table that training ends with: a row a model, validation and test columns, the protocol beneath.

    Columns without a value in any row are left out.

    Args:
        rows: in order, such as chance, Popularity, Base, SPT, RPT.
        metrics: names of the columns within each part.
        markdown: Markdown instead of aligned text.
        protocol: the line beneath; None makes it from the rows' protocols, where they bring any.

    Raises:
        InputError: for a metric's name that does not parse.
    """
    columns = [("", [row.name for row in rows])]
    if any(row.depth is not None for row in rows):
        columns.append(("depth", [_MISSING if row.depth is None else str(row.depth) for row in rows]))
    for title, parts in (("validation", [row.validation for row in rows]), ("test", [row.test for row in rows])):
        if any(part is not None for part in parts):
            for name in metrics:
                values = [_number(None if part is None else part.get(name)) for part in parts]
                columns.append((f"{title} {metric_title(name)}", values))
    header = [title for title, _ in columns]
    body = [[cells[number] for _, cells in columns] for number in range(len(rows))]
    if protocol is None:
        protocol = protocol_line(made for row in rows for made in row.protocols)
    return _with_line(header, body, protocol, markdown)


def depth_table(
    evaluation: Evaluation,
    metrics: Sequence[str] = ("recall@10", "ndcg@10"),
    *,
    rivals: Mapping[str, Evaluation] | None = None,
    markdown: bool = False,
) -> str:
    """The per-depth curve as a table, the answer's depth marked with "*".

    Args:
        evaluation: of a model that thinks.
        metrics: names of the columns.
        rivals: what it has to beat at every depth, by name, such as chance and Popularity: a row each, on top.
        markdown: Markdown instead of aligned text.
    """
    own = evaluation.protocol.depth
    rows: list[tuple[str, Mapping[str, float]]] = [(name, rival.metrics) for name, rival in (rivals or {}).items()]
    rows += [(f"{depth}{'*' * (depth == own)}", values) for depth, values in evaluation.per_depth.items()]
    body = [[name, *(_number(values.get(metric)) for metric in metrics)] for name, values in rows]
    line = protocol_line([evaluation.protocol], leave_out=("depth",))
    return _with_line(["depth", *map(metric_title, metrics)], body, line, markdown)


def subgroup_table(
    evaluations: Evaluation | Mapping[str, Evaluation],
    metrics: Sequence[str] = ("recall@10", "ndcg@10"),
    *,
    markdown: bool = False,
) -> str:
    """Metrics by quartile of history length and of the target's popularity.

    Args:
        evaluations: made with `subgroups=True`; several, by name, such as chance, Popularity and a model, stand beneath
            each other in every group.
        metrics: names of the columns.
        markdown: Markdown instead of aligned text.

    Raises:
        InputError: for evaluations of different groups.
    """
    named = evaluations if isinstance(evaluations, Mapping) else {"": evaluations}
    groups = {name: evaluation.subgroups for name, evaluation in named.items()}
    if len({tuple((g.by, g.low, g.high, g.size) for g in found) for found in groups.values()}) > 1:
        raise InputError("evaluations must be of the same groups: evaluate all on one set, with subgroups=True")
    several = len(named) > 1
    body = [
        [
            f"{group.by} {group.low}-{group.high}",
            f"{group.size:,}",
            *([name] if several else []),
            *(_number(group.metrics.get(metric)) for metric in metrics),
        ]
        for alike in zip(*groups.values(), strict=True)
        for name, group in zip(groups, alike, strict=True)
    ]
    header = ["group", "samples", *(["model"] if several else []), *map(metric_title, metrics)]
    line = protocol_line([made.protocol for made in named.values()], leave_out=("stage",) if several else ())
    return _with_line(header, body, line, markdown)


def protocol_line(protocols: Iterable[Protocol], *, leave_out: Sequence[str] | None = None) -> str:
    """What several results were measured with, in one line; what they do not agree on is listed, "a / b".

    Args:
        protocols: of the results.
        leave_out: fields that are said elsewhere; None leaves out split, stage, depth and seeds where there are
            several results, except the seeds that all trained ones share.
    """
    parts = [protocol.parts() for protocol in protocols]
    if not parts:
        return ""
    if leave_out is None:
        leave_out = _BY_ROW if len(parts) > 1 else ()
        if len({part["seeds"] for part in parts if "seeds" in part}) == 1:
            leave_out = [name for name in leave_out if name != "seeds"]
    names = dict.fromkeys(name for part in parts for name in part if name not in leave_out)
    found = [" / ".join(dict.fromkeys(part[name] for part in parts if name in part)) for name in names]
    return "; ".join(words for words in found if words)


def metric_title(name: str) -> str:
    """A metric's name as people write it: "recall@10" is "Recall@10", "ndcg@10" "NDCG@10", "mrr" "MRR".

    Raises:
        InputError: for a name that does not parse.
    """
    metric = parse_metric(name)
    kind = "Recall" if metric.kind == "recall" else metric.kind.upper()
    return kind if metric.cutoff is None else f"{kind}@{metric.cutoff}"


def text_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right.

    Args:
        header: titles.
        body: rows of as many cells.

    Raises:
        InputError: for a row of another length.
    """
    widths = _widths(header, body)
    lines = [_aligned(header, widths), "  ".join("-" * width for width in widths)]
    return "\n".join([*lines, *(_aligned(row, widths) for row in body)])


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """The same in Markdown; "|" in a cell is escaped.

    Args:
        header: titles.
        body: rows of as many cells.

    Raises:
        InputError: for a row of another length.
    """
    header = [cell.replace("|", "\\|") for cell in header]
    body = [[cell.replace("|", "\\|") for cell in row] for row in body]
    widths = [max(3, width) for width in _widths(header, body)]
    rule = [":" + "-" * (width - 1) if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    rows = [header, rule, *body]
    return "\n".join("| " + _aligned(row, widths, " | ", strip=False) + " |" for row in rows)


def _with_line(header: Sequence[str], body: Sequence[Sequence[str]], line: str, markdown: bool) -> str:
    table = (markdown_table if markdown else text_table)(header, body)
    return f"{table}\n\n{line}" if line else table


def _widths(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[int]:
    for row in body:
        if len(row) != len(header):
            raise InputError(f"table: a row of {len(row)} cells under {len(header)} titles: {row!r}")
    return [max(len(row[column]) for row in (header, *body)) for column in range(len(header))]


def _aligned(row: Sequence[str], widths: Sequence[int], gap: str = "  ", *, strip: bool = True) -> str:
    cells = [
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    line = gap.join(cells)
    return line.rstrip() if strip else line


def _number(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.4f}"
