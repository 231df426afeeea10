"""How many changes of the code the tests notice: `make mutants`.

Each mutant (see `making`) is run against its module's own tests until one fails. What survives must be listed in
survivors.toml with the reason why it may, and nine in ten must be killed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LISTED = Path(__file__).with_name("survivors.toml")
LAST = ROOT / "build" / "mutants.json"
WANTED = 0.9

OBJECTIVES = "tests/objectives"
RANKS = ["tests/items/test_softmax.py", "-k=rank or tie or top or number or named or row or exact or keys or tiles"]
TESTS: dict[str, list[str]] = {
    "depth": ["tests/core/test_depth.py"],
    "recurrence": ["tests/core/test_recurrence.py", "tests/core/test_per_step.py"],
    "per_step": ["tests/core/test_per_step.py"],
    "measures.metrics": ["tests/evaluation/test_metrics.py"],
    "followers": ["tests/evaluation/test_followers.py"],
    "items.bonus": [
        "tests/items/test_bonus.py",
        "tests/evaluation/test_followers.py",
        "tests/core/test_recommend.py",
        "-k=bonus or chunk or numbering or row or precision or tile or top or protocol or weights or another_catalog",
    ],
    "items.ranks": [RANKS[0], "tests/items/test_bonus.py", f"{RANKS[1]} or bonus"],
    "items.ranks_in_tiles": RANKS,
    "items.same_keys": RANKS,
    "items.pairs": ["tests/items/test_pairs.py"],
    "data.splits": ["tests/data/test_splits.py"],
    "objectives.advantages": [f"{OBJECTIVES}/test_rewards.py"],
    "objectives.compose": [
        *(f"{OBJECTIVES}/test_{name}.py" for name in ("contract", "parts")),
        "-k=sum or own or spt or weighted or weighed or named",
    ],
    "objectives.contract": [
        *(f"{OBJECTIVES}/test_{name}.py" for name in ("contract", "parts")),
        "-k=contract or sum or own or free or few",
    ],
    "objectives.differing": [f"{OBJECTIVES}/test_rpt.py", "-k=not raises_the_reward"],
    "objectives.info_nce": [
        *(f"{OBJECTIVES}/test_{name}.py" for name in ("info_nce", "parts")),
        "-k=info_nce or alignment",
    ],
    "objectives.next_item": [
        f"{OBJECTIVES}/test_parts.py",
        "-k=dense or padding or own or few or sampled or samples or draws or catalog or named or autocast or shown",
    ],
    "objectives.next_item_everywhere": [f"{OBJECTIVES}/test_next_item_everywhere.py", "-k=not fit_learns"],
    "objectives.policy": [
        *(f"{OBJECTIVES}/test_{name}.py" for name in ("policy", "rpt")),
        "-k=test_policy or mistakes_are_named",
    ],
    "objectives.rewards": [f"{OBJECTIVES}/test_rewards.py"],
    "objectives.rollouts": [f"{OBJECTIVES}/test_rpt.py", "-k=not raises_the_reward"],
    "objectives.rollout_terms": [f"{OBJECTIVES}/test_rpt.py", "-k=not raises_the_reward"],
    "objectives.rpt": [f"{OBJECTIVES}/test_rpt.py", "-k=not raises_the_reward"],
    "objectives.selection": [f"{OBJECTIVES}/test_selection.py"],
    "objectives.spt": [f"{OBJECTIVES}/test_parts.py", "-k=spt or named"],
    "objectives.step": [f"{OBJECTIVES}/test_parts.py", "-k=step or few or spt or named or order or autocast or shown"],
    "objectives.trajectory": [
        f"{OBJECTIVES}/test_parts.py",
        "-k=trajectory or few or spt or named or autocast or shown",
    ],
    "objectives.views": [
        *(f"{OBJECTIVES}/test_{name}.py" for name in ("parts", "next_item_everywhere")),
        "-k=view or depth or reads or newest or missing or states",
    ],
}
"""What pytest is given for each module."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the modules' mutants and report; 0 where enough are killed and all others listed."""
    options = command().parse_args(arguments)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a process that has used a device cannot fork
    os.environ["HYPOTHESIS_PROFILE"] = "few"
    from tests.mutants.making import mutants
    from tests.mutants.running import judge

    LAST.parent.mkdir(exist_ok=True)
    last: dict[str, list[list[str]]] = json.loads(LAST.read_text()) if LAST.exists() else {}
    listed, fine = listed_survivors(), True
    say(f"{'module':<34} {'mutants':>7} {'killed':>14} {'listed':>7} {'seconds':>8}")
    for name in options.modules or TESTS:
        start = time.monotonic()
        made = mutants(source_of(name))
        if options.again:
            made = [mutant for mutant in made if list(mutant.name) in last.get(name, [])]
        made = [mutant for mutant in made if options.function in mutant.function][:: options.every]
        with LAST.with_name(f"mutants-{name}.log").open("w") as log:
            judged = []
            for mutant, by in judge(f"latentloop.{name}", made, TESTS[name], log.fileno()) if made else ():
                judged.append((mutant, by))
                if not by and mutant.name not in listed.get(name, {}):
                    say(f"  survives, not listed: {mutant}")
                elif by and mutant.name in listed.get(name, {}):
                    say(f"  killed, though listed: {mutant}")
                elif options.verbose:
                    say(f"  {by or 'listed'}: {mutant}")
        survivors = [mutant for mutant, by in judged if not by]
        unlisted = [mutant for mutant in survivors if mutant.name not in listed.get(name, {})]
        share = 1 - len(survivors) / max(1, len(judged))
        killed = f"{len(judged) - len(survivors)} ({share:.1%})"
        took = time.monotonic() - start
        say(f"{name:<34} {len(judged):>7} {killed:>14} {len(survivors) - len(unlisted):>7} {took:>8.1f}")
        fine &= not unlisted and (options.again or share >= WANTED)
        run = {mutant.name for mutant, _ in judged}
        before = [old for old in last.get(name, []) if tuple(old) not in run]
        last[name] = before + [list(mutant.name) for mutant in survivors]
        LAST.write_text(json.dumps(last))
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    say(f"{sum(each.ru_utime + each.ru_stime for each in used) / 60:.1f} minutes of processor time")
    return int(not fine)


def source_of(module: str) -> str:
    """The source of a module of latentloop."""
    return (ROOT / "latentloop" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


def listed_survivors() -> dict[str, dict[tuple[str, str, str], str]]:
    """By module, the survivors that survivors.toml lists, and why they may survive."""
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    found: dict[str, dict[tuple[str, str, str], str]] = {}
    table: dict[str, Any] = toml.loads(LISTED.read_text(encoding="utf-8"))
    for module, functions in table.items():
        for function, entries in functions.items():
            for entry in entries:
                for becomes in entry["becomes"]:
                    name = ("" if function == "module" else function, entry["was"], becomes)
                    found.setdefault(module, {})[name] = entry["why"]
    return found


def say(*lines: str) -> None:
    """Write lines for whoever waits."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _known(module: str) -> str:
    """A module's name, as argparse's choices would have it, which refuse that none is named."""
    if module not in TESTS:
        raise argparse.ArgumentTypeError(f"{module!r} is none of {', '.join(TESTS)}")
    return module


def command() -> argparse.ArgumentParser:
    """What `make mutants` is given."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", type=_known, metavar="MODULE", help="all where none is named")
    parser.add_argument("--again", action="store_true", help="only those that survived last time")
    parser.add_argument("--function", default="", help="only mutants of functions with this in their name")
    parser.add_argument("--every", type=int, default=1, help="every n-th mutant, for a quick look")
    parser.add_argument("--verbose", action="store_true", help="what killed each mutant")
    return parser


if __name__ == "__main__":
    sys.exit(main())
