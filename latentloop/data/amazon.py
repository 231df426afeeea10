"""Amazon Reviews 2023 (5-core), straight from its CSV files on the hub: its loading script no longer runs."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from latentloop.data.interactions import Interactions
from latentloop.errors import InputError

__all__ = ["AMAZON_PREFIX", "check_counts", "download"]

AMAZON_PREFIX = "amazon-2023:"
_REPOSITORY = "McAuley-Lab/Amazon-Reviews-2023"
_EXPECTED = {
    "Musical_Instruments": (57_439, 24_587, 511_836),
    "Industrial_and_Scientific": (50_985, 25_848, 412_947),
    "Video_Games": (94_762, 25_612, 814_586),
    "Baby_Products": (150_777, 36_013, 1_241_083),
}
_log = logging.getLogger(__name__)


def download(category: str) -> Path:
    """Fetch a category's file, or find it in the hub's cache.

    Args:
        category: its name on the hub, such as "Musical_Instruments".

    Raises:
        InputError: no such category, or the hub cannot be reached.
    """
    if not re.fullmatch(r"\w+", category):
        raise InputError(
            f"{AMAZON_PREFIX}{category}: no category of that name, expected one such as "
            f"{AMAZON_PREFIX}Musical_Instruments"
        )
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    file = f"benchmark/5core/rating_only/{category}.csv"
    try:
        return Path(huggingface_hub.hf_hub_download(repo_id=_REPOSITORY, filename=file, repo_type="dataset"))
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{AMAZON_PREFIX}{category}: the hub cannot be reached and the file is not in its cache; "
            "check the connection, or pass the path of a downloaded file"
        ) from error
    except EntryNotFoundError as error:
        raise InputError(
            f"{AMAZON_PREFIX}{category}: {_REPOSITORY} has no file {file}; check the category's "
            "spelling, for example Musical_Instruments"
        ) from error
    except OSError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{AMAZON_PREFIX}{category}: the download failed ({reason}); try again, or pass the path of "
            "a downloaded file"
        ) from error


def check_counts(category: str, interactions: Interactions) -> None:
    """Warn when a category that published results use does not have the counts they were measured with.

    Args:
        category: its name on the hub.
        interactions: what was read.
    """
    expected = _EXPECTED.get(category)
    found = (interactions.num_users, interactions.num_items, len(interactions))
    if expected is not None and found != expected:
        _log.warning(
            "%s%s: %d users, %d items, %d actions; expected %d, %d, %d, so results are not comparable with published "
            "ones",
            AMAZON_PREFIX,
            category,
            *found,
            *expected,
        )
