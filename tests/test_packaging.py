"""What installs and what imports: the wheel, the editable install, the light core, the public names."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path
from types import ModuleType

import pytest

import latentloop
import latentloop.data

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"latentloop": "latentloop", "backbones": "latentloop/backbones"}


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def python(code: str, *options: str, cwd: Path = ROOT) -> str:
    """What `code` prints in a process of its own."""
    result = run(sys.executable, *options, "-c", code, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


def from_checkout(code: str) -> str:
    """What `code` prints where the package comes from this checkout, installed or not."""
    return python(
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import latentloop; "
        f"latentloop.__path__.append({str(ROOT)!r})\n{code}"
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that nothing is written in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / file).exists():
            shutil.copy(ROOT / file, source)
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=source)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (source / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(archive.read(name).decode())


def test_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    expected = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in [*(ROOT / folder).rglob("*.py"), ROOT / folder / "py.typed"]
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_wheel_describes_itself(wheel: Path, metadata: Message) -> None:
    assert metadata["Name"] == "latentloop"
    assert metadata["Version"] == latentloop.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "MIT"
    assert set(metadata.get_all("Provides-Extra", [])) == {"onnx", "plots", "text", "tracking", "dev"}
    with zipfile.ZipFile(wheel) as archive:
        texts = {
            name.split(".dist-info/")[1]: archive.read(name).decode()
            for name in archive.namelist()
            if ".dist-info/" in name
        }
    assert "latentloop = latentloop.cli:main" in texts["entry_points.txt"]
    assert "latentloop contributors" in texts["licenses/LICENSE"]


def test_wheel_imports_far_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target")
    installed = run(*pip, site, wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    printed = python(
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import latentloop.backbones.sasrec, latentloop.recurrence\n"
        "print(latentloop.__file__, latentloop.backbones.sasrec.__file__, latentloop.recurrence.__file__, sep='\\n')",
        "-I",
        cwd=tmp_path,
    )
    # The editable install must not lend a module that the wheel lacks.
    assert [Path(line).is_relative_to(site) for line in printed.splitlines()] == [True, True, True]


def test_editable_install_imports_the_checkout_from_anywhere(tmp_path: Path) -> None:
    installs = [
        found.read_text("direct_url.json") or "" for found in importlib.metadata.distributions(name="latentloop")
    ]
    if not any(f'"{ROOT.as_uri()}"' in install for install in installs):
        pytest.skip("this checkout is not installed here; `make test` installs it")
    printed = python("import latentloop.backbones as b; print(b.__file__)", "-I", cwd=tmp_path)
    assert Path(printed.strip()) == ROOT / "backbones" / "__init__.py"


def test_pytest_reads_backbones_from_this_checkout() -> None:
    import latentloop.backbones.sasrec as sasrec

    assert Path(sasrec.__file__) == ROOT / "backbones" / "sasrec.py"


def test_annotations_are_checked_in_tests() -> None:
    """In both trees; otherwise a wrong shape in a signature would pass unseen."""
    from latentloop.backbones.sasrec import SASRec
    from latentloop.randomness import fold

    with pytest.raises(Exception, match="type"):
        fold("not a key")  # type: ignore[arg-type]
    assert hasattr(SASRec.__init__, "__wrapped__")


def test_every_requirement_is_pinned(metadata: Message) -> None:
    def canonical(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonical(line.split("==")[0]) for line in lines if re.fullmatch(r"[\w.-]+==[\w.]+(; .+)?", line)}
    assert len(pins) <= len(lines) == sum("==" in line for line in lines)
    needed = {
        canonical(re.split(r"[^\w.-]", line, maxsplit=1)[0])
        for line in metadata.get_all("Requires-Dist", [])
        if 'extra == "text"' not in line
    } - {"latentloop"}
    assert "torch" in needed
    assert needed <= pins
    assert "torch==2.13.0" in lines


@pytest.mark.parametrize("name", sorted(set(latentloop.__all__) - {"__version__"}))
def test_public_name_is_a_thing_and_not_its_module(name: str) -> None:
    value = getattr(latentloop, name)
    assert not isinstance(value, ModuleType)
    assert value.__name__ == name


def test_a_module_never_hides_the_function_of_its_name() -> None:
    printed = from_checkout(
        "import latentloop.adapt, latentloop.two_stage\n"
        "from latentloop import adapt, two_stage\n"
        "from latentloop.adapt import adapt as adapt_at_home\n"
        "from latentloop.two_stage import two_stage as two_stage_at_home\n"
        "print(adapt is adapt_at_home, two_stage is two_stage_at_home)"
    )
    assert printed.split() == ["True", "True"]


@pytest.mark.parametrize(
    ("package", "beside"), [(latentloop, ["__version__"]), (latentloop.data, [])], ids=["top", "data"]
)
def test_type_checkers_and_python_see_the_same_names(package: ModuleType, beside: list[str]) -> None:
    tree = ast.parse(Path(str(package.__file__)).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.name: str(node.module).removeprefix(f"{package.__name__}.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == package._HOME
    assert sorted([*typed, *beside]) == sorted(package.__all__)
    assert set(package.__all__) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in package.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Recomender'"):
        _ = latentloop.Recomender


def test_core_imports_nothing_heavy() -> None:
    never = frozenset({"datasets", "accelerate", "tyro", "pandas", "pyarrow", "matplotlib", "tensorboard"})
    forbidden = {
        **dict.fromkeys(
            ("depth", "adapt", "recurrence", "backbones.sasrec", "objectives"),
            never | {"huggingface_hub", "safetensors"},
        ),
        "recommender": never,
    }
    lines = "\n".join(
        f"import latentloop.{module}; print({module!r}, *sorted(set(sys.modules) & {set(heavy)!r}))"
        for module, heavy in forbidden.items()
    )
    assert from_checkout(lines).splitlines() == list(forbidden)


@pytest.mark.skipif(os.name == "nt", reason="a bash script")
@pytest.mark.parametrize(
    ("make", "passes"),
    [
        ("exit 1", False),
        ("exit 0", False),
        ('mkdir -p build && echo \'<a><testsuite tests="0" skipped="0"/></a>\' > build/pytest.xml', False),
        ('mkdir -p build && echo \'<a><testsuite tests="4" skipped="4"/></a>\' > build/pytest.xml', False),
        ('mkdir -p build && echo \'<a><testsuite tests="4" skipped="3"/></a>\' > build/pytest.xml', True),
    ],
    ids=["failure", "no report", "no test", "all skipped", "one ran"],
)
def test_ci_fails_on_failure_and_when_no_test_ran(tmp_path: Path, make: str, passes: bool) -> None:
    for folder in (".ci", ".venv/bin", "build", "tools"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    (tmp_path / "build/pytest.xml").write_text('<a><testsuite tests="9" skipped="0"/></a>')  # of an earlier run
    (tmp_path / "tools/make").write_text(f"#!/bin/sh\n{make}\n")
    (tmp_path / "tools/make").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "tools"), os.environ["PATH"]])
    assert (run(".ci/run", cwd=tmp_path, PATH=path).returncode == 0) is passes
