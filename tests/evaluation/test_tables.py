"""Tables: alignment, missing values, and the protocol beneath."""

from __future__ import annotations

import pytest

from latentloop.baselines import chance, popularity
from latentloop.errors import InputError
from latentloop.evaluation import evaluate
from latentloop.measures.tables import (
    Row,
    depth_table,
    markdown_table,
    metric_title,
    protocol_line,
    results_table,
    subgroup_table,
    text_table,
)
from tests.evaluation.worlds import WholeNumbers, random_split


def test_text_is_aligned() -> None:
    assert text_table(["", "a", "long title"], [["first", "1", "22"], ["x", "-", "0.5"]]) == "\n".join([
        "       a  long title",
        "-----  -  ----------",
        "first  1          22",
        "x      -         0.5",
    ])  # fmt: skip


def test_markdown_is_aligned_and_escaped() -> None:
    assert markdown_table(["name", "a"], [["x|y", "1"], ["z", "-0.25"]]) == "\n".join([
        "| name |     a |",
        "| :--- | ----: |",
        "| x\\|y |     1 |",
        "| z    | -0.25 |",
    ])  # fmt: skip


def test_rows_of_another_length_are_refused() -> None:
    for table in (text_table, markdown_table):
        with pytest.raises(InputError, match="a row of 1 cells under 2 titles"):
            table(["a", "b"], [["only one"]])


def test_metrics_are_written_as_people_write_them() -> None:
    assert [metric_title(name) for name in ("recall@10", "ndcg@5", "mrr")] == ["Recall@10", "NDCG@5", "MRR"]
    with pytest.raises(InputError):
        metric_title("hit@10")


def test_missing_values_are_dashes_and_empty_columns_are_left_out() -> None:
    rows = [Row("chance", {"recall@10": 0.125}), Row("SPT", {"recall@10": 0.25, "ndcg@10": 0.061}, {"ndcg@10": 0.0625})]
    assert results_table(rows, protocol="as measured").splitlines() == [
        "        validation Recall@10  validation NDCG@10  test Recall@10  test NDCG@10",
        "------  --------------------  ------------------  --------------  ------------",
        "chance                0.1250                   -               -             -",
        "SPT                   0.2500              0.0610               -        0.0625",
        "",
        "as measured",
    ]
    only_validation = results_table(rows[:1], ("recall@10",))
    assert only_validation.splitlines()[0].split() == ["validation", "Recall@10"]
    assert only_validation.splitlines()[-1] == "chance                0.1250"


def test_the_results_table_says_what_all_rows_share_once_and_depth_by_row() -> None:
    split = random_split(0)
    model = WholeNumbers(split.num_items)
    rows = [Row.of("chance", chance(split, split.validation, name="validation"), chance(split, split.test))]
    rows += [Row.of("Popularity", None, popularity(split, split.test))]
    rows += [
        Row.of(stage.upper(), None, evaluate(model, split.test, depth=3, stage=stage, seeds=(7,), rule=split.protocol))
        for stage in ("spt", "rpt")
    ]
    lines = results_table(rows).splitlines()
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["chance", "-"],
        ["Popularity", "-"],
        ["SPT", "3"],
        ["RPT", "3"],
    ]
    assert lines[-1] == (
        "leave-one-out; 13 users; all 9 items; history kept; ties: expectation over random order; seed 7"
    )
    markdown = results_table(rows, markdown=True).splitlines()
    assert len({len(line) for line in markdown[:6]}) == 1
    assert markdown[-1] == lines[-1]


def test_what_rows_do_not_share_is_listed() -> None:
    split = random_split(0)
    model = WholeNumbers(split.num_items)
    kept = evaluate(model, split.test, seeds=(1,)).protocol
    excluded = evaluate(model, split.test, exclude_history=True, seeds=(2,)).protocol
    line = protocol_line([kept, excluded])
    assert "history kept / history excluded" in line
    assert "seed" not in line
    assert protocol_line([kept]).startswith("test split; 13 users")
    assert protocol_line([]) == ""


def test_the_depth_table_marks_the_answer_s_depth() -> None:
    split = random_split(0)
    result = evaluate(WholeNumbers(split.num_items), split.test, depths=[1, 4], stage="spt")
    lines = depth_table(result, ("mrr",)).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2*", "4"]
    assert [line.split()[1] for line in lines[2:5]] == [f"{result.at(depth).metrics['mrr']:.4f}" for depth in (1, 2, 4)]
    assert "stage spt" in lines[-1] and "depth" not in lines[-1]


def test_the_subgroup_table_has_a_row_a_group() -> None:
    split = random_split(0, users=40)
    result = popularity(split, split.test, subgroups=True)
    lines = subgroup_table(result).splitlines()
    for group, line in zip(result.subgroups, lines[2:], strict=False):
        assert line.startswith(f"{group.by} {group.low}-{group.high} ")
        assert line.split()[-3:] == [
            str(group.size), f"{group.metrics['recall@10']:.4f}", f"{group.metrics['ndcg@10']:.4f}",
        ]  # fmt: skip


def test_rivals_stand_on_top_of_the_depth_table() -> None:
    split = random_split(0)
    result = evaluate(WholeNumbers(split.num_items), split.test, depths=[1, 4])
    rivals = {"chance": chance(split, split.test), "Popularity": popularity(split, split.test)}
    plain, lines = depth_table(result, ("mrr",)).splitlines(), depth_table(result, ("mrr",), rivals=rivals).splitlines()
    assert [line.split() for line in lines[2:4]] == [[n, f"{r.metrics['mrr']:.4f}"] for n, r in rivals.items()]
    assert [line.split() for line in lines[4:]] == [line.split() for line in plain[2:]]


def test_several_evaluations_stand_beneath_each_other_in_every_group() -> None:
    split = random_split(0, users=40)
    named = {made.__name__: made(split, split.test, subgroups=True) for made in (chance, popularity)}
    lines = subgroup_table(named).splitlines()
    assert lines[0].split() == ["group", "samples", "model", "Recall@10", "NDCG@10"]
    found = [line.split()[-4:] for line in lines[2:-2]]
    groups = range(len(named["chance"].subgroups))
    assert found == [
        [str(group.size), name, f"{group.metrics['recall@10']:.4f}", f"{group.metrics['ndcg@10']:.4f}"]
        for place in groups
        for name, made in named.items()
        for group in [made.subgroups[place]]
    ]
    other = random_split(1, users=40)
    with pytest.raises(InputError, match="the same groups"):
        subgroup_table(named | {"other": popularity(other, other.test, subgroups=True)})
