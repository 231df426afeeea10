"""Plain backbones under published settings: every one trains, continues, and reports both rankings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.fidelity import Options, main
from latentloop.data.synthetic import synthetic_log
from latentloop.errors import InputError


@pytest.mark.parametrize("backbone", ["sasrec", "fmlprec", "bsarec", "tedrec"])
def test_a_backbone_is_trained_and_continues_to_the_same_numbers(tmp_path: Path, backbone: Any) -> None:
    log = synthetic_log(num_users=80, num_items=40, seed=5)
    users: dict[int, list[str]] = {}
    for user, item in zip(log.user.tolist(), log.item.tolist(), strict=True):
        users.setdefault(user, [str(user + 1)]).append(str(item))
    source = tmp_path / "log.txt"
    source.write_text("\n".join(map(" ".join, users.values())))
    embeddings = tmp_path / "text.npy"
    np.save(embeddings, torch.randn(log.num_items, 8, generator=torch.Generator().manual_seed(0)).numpy())
    options = Options(
        str(source), tmp_path / "run", backbone=backbone, padding="keep", dim=16, epochs=2, first_items=backbone in ("bsarec", "sasrec"),
        item_embeddings=embeddings if backbone == "tedrec" else None, keep_history=backbone == "tedrec",
    )  # fmt: skip
    found = main(options)
    assert found["epochs"] == 2
    assert found["history excluded"]["ndcg@10"] > found["history kept"]["ndcg@10"] > 0
    followed = [name for name in found if ", plus followers * " in name]
    assert [name.partition(",")[0] for name in followed] == ["history excluded", "history kept"]
    assert main(options) == found
    if backbone == "tedrec":
        np.save(embeddings, np.zeros((log.num_items, 8), dtype=np.float32))
        with pytest.raises(InputError, match="item_embeddings was"):
            main(options)
