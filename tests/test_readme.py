"""The README's Python runs as it stands, block after block, and its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from latentloop.cli import main

README = Path(__file__).resolve().parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a block saves a model
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    thoughts = names["thoughts"]
    assert thoughts.steps.shape == (4, 2, 64)  # type: ignore[attr-defined]  # as its comment says


def test_commands_parse(capsys: pytest.CaptureFixture[str]) -> None:
    lines = re.findall(r"^\$ latentloop (.*)$", TEXT, flags=re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        with pytest.raises(SystemExit) as left:
            main([*shlex.split(line, comments=True), "--help"])
        assert left.value.code == 0, line
    capsys.readouterr()


def test_files_named_exist() -> None:
    named = set(re.findall(r"`((?:latentloop|backbones|tests|examples)/[\w./]+\.py)`", TEXT))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (README.parent / name).is_file()] == []


def test_the_tree_is_told_whole() -> None:
    told = TEXT[TEXT.index("Where what is, in `latentloop/`") : TEXT.index("Everything random is keyed")]
    named = re.findall(r"`([a-z_]+(?:\.py|/))`", told[told.index("|") :])
    package = README.parent / "latentloop"
    there = [f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists() and not path.is_symlink()]
    there += [path.name for path in package.glob("*.py") if not path.name.startswith("__")]
    assert sorted(named) == sorted(there)


def test_findings_are_named_and_exist() -> None:
    benchmarks = README.parent / "benchmarks"
    page = (benchmarks / "RESULTS.md").read_text(encoding="utf-8")
    pages = {path.name for path in (benchmarks / "findings").glob("*.md")}
    assert len(pages) > 5
    assert set(re.findall(r"\]\(findings/([\w.]+)\)", page)) == pages
    texts = [path.read_text(encoding="utf-8") for path in (benchmarks / "findings").glob("*.md")]
    assert {name for text in texts for name in re.findall(r"`(\w+\.md)`", text)} <= pages
    assert set(re.findall(r"`benchmarks/findings/([\w.]+\.md)`", TEXT)) <= pages
