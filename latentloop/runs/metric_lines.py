"""metrics.jsonl: one line an epoch and stage, in the order in which the stages began."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentloop.checks import is_whole
from latentloop.errors import InputError
from latentloop.files import write_atomically, writing
from latentloop.json_text import parse_json

__all__ = ["MetricLines"]


class MetricLines:
    """The lines of a run.

    Args:
        path: where they are, or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All lines; a last one cut short by a crash is left out.

        Raises:
            InputError: for a line that is none of ours.
        """
        lines: list[dict[str, Any]] = []
        written = self._text().splitlines()
        for number, line in enumerate(written, start=1):
            try:
                found = parse_json(line)
            except ValueError:
                if number == len(written) and line.startswith("{"):
                    break
                raise self._damaged(line) from None
            if (
                not isinstance(found, dict)
                or not isinstance(found.get("stage"), str)
                or not is_whole(found.get("epoch"))
                or not all(map(_is_sound, found.values()))
            ):
                raise self._damaged(found)
            lines.append(found)
        return lines

    def best_stage(self) -> str:
        """The stage whose model won on validation: post-training, unless pre-training was better.

        Raises:
            InputError: for a line that is none of ours.
        """
        best: dict[str, float] = {}
        for line in self.read():
            try:
                best[line["stage"]] = max(best.get(line["stage"], 0.0), line["ndcg@10"])
            except (KeyError, TypeError):
                raise self._damaged(line) from None
        return "rpt" if "rpt" in best and best["rpt"] > best.get("spt", 0.0) else "spt"

    def add(self, line: Mapping[str, Any]) -> None:
        """Write a line behind its stage's others, or else behind all.

        Raises:
            OSError: where it cannot be written.
        """
        before = self.read()
        stages = [each["stage"] for each in before]
        if line["stage"] in stages and stages[-1] != line["stage"]:  # of a run that is continued with more epochs
            self.restore(line["stage"], [*(each for each in before if each["stage"] == line["stage"]), line])
            return
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_line(line))

    def restore(self, stage: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Make `lines` the stage's only ones, where its first one is, or behind all others.

        Raises:
            OSError: where they cannot be written; what was there is whole then.
        """
        before = self.read()
        kept = [line for line in before if line["stage"] != stage]
        first = next((place for place, line in enumerate(before) if line["stage"] == stage), len(kept))
        text = "".join(_line(line) for line in [*kept[:first], *lines, *kept[first:]])
        if text == self._text():
            return
        with write_atomically(self.path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _text(self) -> str:
        # ASCII is what we write: other bytes make a line that does not parse
        return self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""

    def _damaged(self, line: Any) -> InputError:
        return InputError(f"{self.path} is damaged: {str(line)[:80]!r} is no line of ours")


def _is_sound(value: Any) -> bool:
    """Whether a line of ours holds such a value: no NaN or infinity, which JSON has none of but Python reads."""
    if is_whole(value):
        return abs(value) < 2**63
    return not isinstance(value, float) or math.isfinite(value)


def _line(line: Mapping[str, Any]) -> str:
    return json.dumps(dict(line), allow_nan=False) + "\n"
