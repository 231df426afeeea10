"""Small files for tests of commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

QUICK = ["--epochs", "2", "--rpt-epochs", "1", "--dim", "16", "--pre-layers", "1", "--core-layers", "1", "--inner", "32",
         "--batch-size", "256", "--device", "cpu"]  # fmt: skip


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    names, *rows = [line.replace('"', "").split(",") for line in path.read_text().splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows]


def made(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def binary(path: Path) -> str:
    path.write_bytes(b"\xff\xfe\x00")
    return str(path)


KEEP = ["--k-core", "0"]


def log(folder: Path) -> str:
    return made(folder / "log.csv", "user,item\n" + "".join(f"{u},{i}\n" for u in range(5) for i in range(5)))


def asked(folder: Path, text: str = "user\nu1\n") -> list[str]:
    return ["--input", made(folder / "asked.csv", text), "--out", str(folder / "answer.csv")]
