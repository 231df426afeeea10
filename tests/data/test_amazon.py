"""`amazon-2023:<Category>` reads the hub's file, and nothing else ever asks the hub."""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from latentloop.data import amazon, load_interactions
from latentloop.errors import InputError

CONTENT = "user_id,parent_asin,rating,timestamp\nAEB,B01,5.0,1500000002000\nAEA,B02,1.0,1500000003000\nAEB,B02,4.0,1500000001000\n"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What was asked of the hub; it answers with a small file of the same layout."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(amazon, "_ask_once", lambda _: None)
    (tmp_path / "local.csv").write_text(CONTENT)

    def fake(**request: Any) -> str:
        calls.append(request)
        return str(tmp_path / "local.csv")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake)
    return calls


def test_a_category_is_read_from_the_hubs_file(asked: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    table = load_interactions("amazon-2023:Gift_Cards")
    assert asked == [
        {
            "repo_id": "McAuley-Lab/Amazon-Reviews-2023",
            "filename": "benchmark/5core/rating_only/Gift_Cards.csv",
            "repo_type": "dataset",
        }
    ]
    assert (list(table.user_ids), list(table.item_ids)) == (["AEA", "AEB"], ["B01", "B02"])
    assert table.user.tolist() == [0, 1, 1] and table.item.tolist() == [2, 2, 1]
    assert not caplog.records  # nothing is known about this category's counts


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(
    ("category", "counts"),
    [
        ("Musical_Instruments", "57439, 24587, 511836"),
        ("Industrial_and_Scientific", "50985, 25848, 412947"),
        ("Video_Games", "94762, 25612, 814586"),
        ("Baby_Products", "150777, 36013, 1241083"),
    ],
)
def test_published_counts_are_checked(category: str, counts: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_interactions(f"amazon-2023:{category}")
    assert [record.getMessage() for record in caplog.records] == [
        f"amazon-2023:{category}: 2 users, 2 items, 3 actions; expected {counts}, so results are not comparable with "
        "published ones"
    ]


@pytest.mark.usefixtures("asked")
def test_matching_counts_are_silent(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(amazon, "PUBLISHED_COUNTS", {"Video_Games": (2, 2, 3)})
    load_interactions("amazon-2023:Video_Games")
    assert not caplog.records


@pytest.mark.parametrize(
    "source",
    [
        "amazon-2023",
        "amazon2023:Video_Games",
        "Video_Games",
        "data/amazon-2023:Video_Games",
        "McAuley-Lab/Amazon-Reviews-2023",
        "hf://datasets/x",
    ],
)
def test_a_mistyped_path_never_reaches_the_hub(asked: list[dict[str, Any]], source: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_interactions(source)
    assert asked == []


@pytest.mark.parametrize("category", ["", "../secrets", "Video Games", "a/b", "NoSuchCategory", "video_games"])
def test_what_cannot_be_a_category_is_refused_at_once(asked: list[dict[str, Any]], category: str) -> None:
    with pytest.raises(InputError, match="no category of that name"):
        load_interactions(f"amazon-2023:{category}")
    assert asked == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (EntryNotFoundError("404"), "has no file benchmark/5core/rating_only/Software.csv"),
        (LocalEntryNotFoundError("offline"), "the hub cannot be reached"),
        (ConnectionError("refused\nby the peer"), r"the download failed \(refused\)"),
    ],
)
def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(**_: Any) -> str:
        raise error

    monkeypatch.setattr(amazon, "_ask_once", lambda _: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(InputError, match=message) as caught:
        load_interactions("amazon-2023:Software")
    assert "\n" not in str(caught.value)


def test_a_near_miss_is_told_what_was_meant() -> None:
    with pytest.raises(InputError, match="did you mean amazon-2023:Video_Games"):
        load_interactions("amazon-2023:Vidoe_Games")


def test_a_hub_out_of_reach_is_one_line_within_seconds_and_no_noise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    began = time.monotonic()
    with pytest.raises(InputError, match="the hub cannot be reached"):
        load_interactions("amazon-2023:Software")
    assert time.monotonic() - began < 10
    assert capfd.readouterr() == ("", "")


def test_a_cached_file_needs_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(_: str) -> None:
        raise AssertionError("asked the hub")

    (tmp_path / "local.csv").write_text(CONTENT)
    monkeypatch.setattr(amazon, "_ask_once", refuse)
    for name in ("try_to_load_from_cache", "hf_hub_download"):
        monkeypatch.setattr(huggingface_hub, name, lambda *_, **__: str(tmp_path / "local.csv"))
    assert len(load_interactions("amazon-2023:Software")) == 3


def test_what_the_hub_answers_is_told_and_not_taken_for_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise HfHubHTTPError("403: this data set is gated", response=MagicMock(headers={}))

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    with pytest.raises(InputError, match=r"amazon-2023:Software: the download failed \(403: this data set is gated"):
        load_interactions("amazon-2023:Software")
