"""Amazon Reviews 2023 (5-core), straight from its CSV files on the hub: its loading script no longer runs."""

from __future__ import annotations

import difflib
import logging
from pathlib import Path

from latentloop.data.interactions import Interactions
from latentloop.errors import InputError

__all__ = ["AMAZON_PREFIX", "PUBLISHED_COUNTS", "check_counts", "download"]

AMAZON_PREFIX = "amazon-2023:"
_REPOSITORY = "McAuley-Lab/Amazon-Reviews-2023"
_CATEGORIES = (
    *("All_Beauty", "Amazon_Fashion", "Appliances", "Arts_Crafts_and_Sewing", "Automotive", "Baby_Products"),
    *("Beauty_and_Personal_Care", "Books", "CDs_and_Vinyl", "Cell_Phones_and_Accessories"),
    *("Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics", "Gift_Cards", "Grocery_and_Gourmet_Food"),
    *("Handmade_Products", "Health_and_Household", "Health_and_Personal_Care", "Home_and_Kitchen"),
    *("Industrial_and_Scientific", "Kindle_Store", "Magazine_Subscriptions", "Movies_and_TV", "Musical_Instruments"),
    *("Office_Products", "Patio_Lawn_and_Garden", "Pet_Supplies", "Software", "Sports_and_Outdoors"),
    *("Subscription_Boxes", "Tools_and_Home_Improvement", "Toys_and_Games", "Video_Games", "Unknown"),
)
PUBLISHED_COUNTS = {
    "Musical_Instruments": (57_439, 24_587, 511_836),
    "Industrial_and_Scientific": (50_985, 25_848, 412_947),
    "Video_Games": (94_762, 25_612, 814_586),
    "Baby_Products": (150_777, 36_013, 1_241_083),
}
"""Users, items and actions of the categories that published results use."""
_TIMEOUT = 5.0  # seconds
_log = logging.getLogger(__name__)


def download(category: str) -> Path:
    """Fetch a category's file, or find it in the hub's cache.

    Args:
        category: its name on the hub, such as "Musical_Instruments".

    Raises:
        InputError: no such category, or the hub cannot be reached.
    """
    if category not in _CATEGORIES:  # before any use of the network
        near = difflib.get_close_matches(category, _CATEGORIES, n=1)
        advice = f"did you mean {AMAZON_PREFIX}{near[0]}?" if near else f"expected one of {', '.join(_CATEGORIES)}"
        raise InputError(f"{AMAZON_PREFIX}{category}: no category of that name; {advice}")
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    file = f"benchmark/5core/rating_only/{category}.csv"
    try:
        cached = huggingface_hub.try_to_load_from_cache(_REPOSITORY, file, repo_type="dataset")
        if not isinstance(cached, str):
            _ask_once(huggingface_hub.hf_hub_url(_REPOSITORY, file, repo_type="dataset"))
        return Path(huggingface_hub.hf_hub_download(repo_id=_REPOSITORY, filename=file, repo_type="dataset"))
    except (LocalEntryNotFoundError, _Unreachable) as error:
        raise InputError(
            f"{AMAZON_PREFIX}{category}: the hub cannot be reached and the file is not in its cache; "
            "check the connection, or pass the path of a downloaded file"
        ) from error
    except EntryNotFoundError as error:
        raise InputError(
            f"{AMAZON_PREFIX}{category}: {_REPOSITORY} has no file {file}; pass the path of a downloaded file"
        ) from error
    except OSError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{AMAZON_PREFIX}{category}: the download failed ({reason}); try again, or pass the path of "
            "a downloaded file"
        ) from error


class _Unreachable(Exception):
    """No answer from the hub."""


def _ask_once(url: str) -> None:
    """Whether the hub has a file, without the half minute of retries, each with a warning, that a download takes."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        huggingface_hub.get_hf_file_metadata(url, timeout=_TIMEOUT)
    except HfHubHTTPError:
        raise
    except Exception as error:  # of httpx, httpx2 or requests, by the version of the hub's client
        raise _Unreachable from error
    finally:
        logger.setLevel(level)


def check_counts(category: str, interactions: Interactions) -> None:
    """Warn when a category that published results use does not have the counts they were measured with.

    Args:
        category: its name on the hub.
        interactions: what was read.
    """
    expected = PUBLISHED_COUNTS.get(category)
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
