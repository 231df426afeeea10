"""The tests on every Python that this machine has, and on the oldest and newest packages that pyproject.toml claims.

`make compat` runs it. Each combination gets an environment of its own in .compat, of up to 7 GB where torch comes
with its CUDA packages, which is removed once its tests have passed, and a log beside it:

pinned   constraints.txt, on each Python
oldest   the lower bound of every package that latentloop requires, on the oldest Python
newest   whatever is newest, on the newest Python
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / ".compat"
PYTHONS = [f"python3.{minor}" for minor in range(10, 15)]
PYENV = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
"""Where pyenv, which many machines have their Pythons from, keeps those that are not on the path."""
KINDS = ("pinned", "oldest", "newest")
EXTRAS = ("onnx", "plots", "tracking")
"""What users install of the extras; `text` has packages of its own size, and is tested with what it calls replaced."""


@dataclass(frozen=True)
class Combination:
    """An interpreter, and versions of packages.

    Args:
        kind: one of KINDS.
        python: the interpreter.
        version: its version, such as 3.11.
    """

    kind: str
    python: str
    version: str

    @property
    def name(self) -> str:
        """For folders and messages."""
        return f"{self.kind}-{self.version}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the combinations and report; 0 where all that could be installed passed."""
    options = _parser().parse_args(arguments)
    chosen = {python: runs(python) for python in options.python}
    found = {version: python for python in chosen.values() if python and (version := version_of(python))}
    missing = [name for name, python in chosen.items() if python is None]
    if not found:
        say(f"none of {', '.join(options.python)} runs here")
        return 1
    PLACE.mkdir(parents=True, exist_ok=True)
    results = {each.name: run(each, options) for each in combinations(found, options.only)}
    say("", *(f"{name:<12} {result}" for name, result in results.items()))
    say(f"not on this machine: {', '.join(missing)}" if missing else "")
    return int(any(not result.startswith("passed") for result in results.values()))


def combinations(pythons: dict[str, str], only: Sequence[str]) -> Iterator[Combination]:
    """What is tested, by versions of Python and their interpreters."""
    ordered = sorted(pythons, key=lambda version: [int(part) for part in version.split(".")])
    for kind, versions in (("pinned", ordered), ("oldest", ordered[:1]), ("newest", ordered[-1:])):
        for version in versions if kind in only else ():
            yield Combination(kind, pythons[version], version)


def runs(name: str, elsewhere: Path = PYENV) -> str | None:
    """An interpreter of this name or path that runs: on the path, else the newest one that pyenv has; None without."""
    kept = sorted(
        elsewhere.glob(f"*/bin/{name}"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])]
    )
    return next((python for python in (name, *map(str, reversed(kept))) if version_of(python)), None)


def version_of(python: str) -> str | None:
    """An interpreter's version; None where there is none of that name, or it does not run."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    path = shutil.which(python)
    answer = path and subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer and answer.returncode == 0 else None


def oldest(requirements: Sequence[str]) -> list[str]:
    """The lower bounds of requirements, as pins."""
    return [re.sub(r"^([\w.-]+)>=([\w.]+)$", r"\1==\2", line) for line in requirements]


def project() -> dict[str, Any]:
    """The project's table of pyproject.toml."""
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    table: dict[str, Any] = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def constraints(kind: str, instead: Sequence[str] = ()) -> list[str]:
    """The pins of a kind of combination, but for those that are given `instead`."""
    pins: list[str] = []
    if kind == "pinned":
        pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    if kind == "oldest":
        extras = project()["optional-dependencies"]
        pins = oldest([*project()["dependencies"], *(line for name in EXTRAS for line in extras[name])])
    names = {line.split("==")[0] for line in instead}
    return [line for line in pins if line.split("==")[0] not in names] + list(instead)


def run(combination: Combination, options: argparse.Namespace) -> str:
    """Install a combination and run its tests; what came of it."""
    place, log = PLACE / combination.name, PLACE / f"{combination.name}.log"
    pins = PLACE / f"{combination.name}.txt"
    pins.write_text("\n".join(constraints(combination.kind, options.instead)) + "\n")
    say(f"{combination.name}: {log.relative_to(ROOT)}")
    shutil.rmtree(place, ignore_errors=True)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    with log.open("w") as output:
        steps = {
            "has no venv": [combination.python, "-m", "venv", "--without-pip", str(place)],
            "cannot be installed": [*pip, "install", "--no-compile", "--constraint", str(pins), *wanted()],
            "cannot be built": [*pip, "install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)],
            "lists no versions": [*pip, "freeze"],
            "FAILED": [str(python), "-m", "pytest", "-q", "-n", str(options.workers), *options.tests],
        }
        for failure, command in steps.items():
            output.write(f"$ {' '.join(command)}\n")
            output.flush()
            code = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False)
            if code.returncode:
                return f"{failure}: {_last(log)}"
    if not options.keep:
        shutil.rmtree(place)
    return f"passed: {_last(log)}"


def wanted() -> list[str]:
    """What an environment needs: requirements of latentloop, of its extras and of its tests."""
    extras = project()["optional-dependencies"]
    unneeded = re.compile(r"latentloop|libcst|mutmut|mypy|ruff")
    lines = ["pip", *project()["dependencies"], *(line for name in (*EXTRAS, "dev") for line in extras[name])]
    return [line for line in lines if not unneeded.match(line)]


def say(*lines: str) -> None:
    """Write lines for whoever waits."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _last(log: Path) -> str:
    told = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in told if line.startswith("ERROR:")]
    return (errors or told)[-1 if not errors else 0][:200]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.compat", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tests", nargs="*", default=["tests"], help="what to run; all fast tests when not given")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--python", nargs="+", default=PYTHONS, help="names (pyenv's too) or paths of interpreters")
    parser.add_argument("--instead", nargs="+", default=[], help="pins in place of a combination's own: torch==2.13.0")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="leave the environments where they are")
    return parser


if __name__ == "__main__":
    sys.exit(main())
