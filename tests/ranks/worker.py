"""One of several processes that carry out `checks`, each check's findings into FOLDER/RANK.pt. `die` dies in a step."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from latentloop.fitting.accelerator import make_accelerator
from tests.ranks.checks import CHECKS


def main() -> None:
    """Carry out all checks in order."""
    folder = Path(sys.argv[1])
    accelerator = make_accelerator()
    found = {name: check(accelerator, folder) for name, check in CHECKS.items()}
    torch.save(found, folder / f"{accelerator.process_index}.pt")
    accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
    os._exit(0)  # taking so many modules down takes seconds
