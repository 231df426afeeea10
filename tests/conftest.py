"""What every test shares: shapes and types checked at each call, Hypothesis profiles, devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]

# Every annotation of the package is checked by beartype, latentloop.backbones included. The hook sees only what
# Python finds on a path, so the checkout's top folder, where backbones/ lies, becomes part of the package's.
install_import_hook("latentloop", "beartype.beartype")

import latentloop  # noqa: E402

latentloop.__path__.append(str(ROOT))

settings.register_profile(
    "ci",
    max_examples=25,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("dev", settings.get_profile("ci"), derandomize=False)
settings.register_profile("thorough", settings.get_profile("dev"), max_examples=500)
settings.register_profile(  # for `make mutants` and `make stable`, where a failure need not be made small
    "few", settings.get_profile("ci"), max_examples=10, phases=(Phase.explicit, Phase.generate), database=None
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

torch.set_num_threads(1)


@pytest.fixture(scope="session", params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device of this machine."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public interaction files: LATENTLOOP_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("LATENTLOOP_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no folder of real data at {folder}")
    return folder
