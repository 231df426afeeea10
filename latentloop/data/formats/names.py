"""Which column holds the user, the item and the time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from latentloop.errors import InputError

__all__ = ["Wanted", "find_item", "listed"]

logger = logging.getLogger(__name__)

_KNOWN = {
    "user": (
        "user_id",
        "user",
        "userid",
        "uid",
        "reviewerid",
        "reviewer_id",
        "customer_id",
        "customerid",
        "visitor_id",
        "visitorid",
        "session_id",
        "sessionid",
    ),
    "item": (
        "item_id",
        "item",
        "itemid",
        "iid",
        "parent_asin",
        "asin",
        "movie_id",
        "movieid",
        "product_id",
        "productid",
        "track_id",
        "song_id",
        "artist_id",
        "artistid",
        "book_id",
        "business_id",
        "article_id",
    ),
    "timestamp": (
        "timestamp",
        "time",
        "ts",
        "unixreviewtime",
        "unix_review_time",
        "unix_time",
        "unix_timestamp",
        "event_time",
        "timestamps",
    ),
}
# Looked for where none of the above is there: many tables have both a `timestamp` and its `date`, for people.
_SECOND_CHOICE = {"timestamp": ("datetime", "date")}


@dataclass(frozen=True)
class Wanted:
    """The column names a user gave; None where they are to be recognised.

    Args:
        user: column of user ids.
        item: column of item ids.
        timestamp: column of timestamps.
    """

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None

    def find(self, columns: Sequence[str], name: str) -> tuple[int, int, int | None]:
        """Positions of the three columns; the timestamp may be absent unless it was asked for by name.

        Args:
            columns: the names found in the source; RecBole's `name:type` is known by its name too.
            name: what errors call the source.

        Raises:
            InputError: a column that is missing, or more than one that could be meant.
        """
        user, item = self._one(columns, "user", self.user, name), self._one(columns, "item", self.item, name)
        time = self._one(columns, "timestamp", self.timestamp, name)
        if user is None or item is None:
            what = "user" if user is None else "item"
            raise InputError(
                f"{name}: no column recognised as the {what}; name the {what} column; columns found: {listed(columns)}",
                settings=(what,),
            )
        if len({user, item, time}) < 3:
            raise InputError(
                f"{name}: one column is named for two things ({columns[user]!r}, {columns[item]!r}); "
                f"columns found: {listed(columns)}"
            )
        return user, item, time

    def find_and_tell(self, columns: Sequence[str], name: str) -> tuple[int, int, int | None]:
        """`find`, and a warning where there are other columns and none of them is known to be the time."""
        user, item, time = self.find(columns, name)
        others = [column for place, column in enumerate(columns) if place not in (user, item)]
        if time is None and others:
            logger.warning(
                "%s: no column recognised as the time of an action, so the order of the rows is taken for it; if one of %s "
                "tells it, name that (--timestamp)",
                name,
                listed(others),
            )
        return user, item, time

    @property
    def any(self) -> bool:
        """Whether a name was given."""
        return any(given is not None for given in (self.user, self.item, self.timestamp))

    @staticmethod
    def _one(columns: Sequence[str], what: str, given: str | None, name: str) -> int | None:
        if given is not None:
            found = [i for i, column in enumerate(columns) if column == given]
            found = found or [i for i, column in enumerate(columns) if column.partition(":")[0].strip() == given]
            if not found:
                raise InputError(
                    f"{name}: no column {given!r} for the {what}; columns found: {listed(columns)}", settings=(what,)
                )
        else:
            plain = [column.partition(":")[0].strip().lower() for column in columns]
            found = [i for i, column in enumerate(plain) if column in _KNOWN[what]]
            found = found or [i for i, column in enumerate(plain) if column in _SECOND_CHOICE.get(what, ())]
            if {plain[i] for i in found} == {"asin", "parent_asin"} and len(found) == 2:
                # Amazon Reviews 2023: variants of a product share the parent, which is the item there
                found = [i for i in found if plain[i] == "parent_asin"]
        if len(found) > 1:
            twice = len({columns[i] for i in found}) < len(found)
            advice = "rename one of them" if twice else f"name the {what} column"
            raise InputError(
                f"{name}: {len(found)} columns could be the {what} "
                f"({listed([columns[i] for i in found])}); {advice}; columns found: {listed(columns)}",
                settings=() if twice else (what,),
            )
        return found[0] if found else None


def find_item(columns: Sequence[str], given: str | None, name: str) -> int | None:
    """The position of the column of item ids, None where none is recognised.

    Args:
        columns: the names found in the source.
        given: the name a user gave.
        name: what errors call the source.

    Raises:
        InputError: a column that is missing, or more than one that could be meant.
    """
    return Wanted._one(columns, "item", given, name)


def listed(columns: Sequence[str]) -> str:
    """Names as an error shows them."""
    shown = ", ".join(repr(column) for column in columns[:20])
    return shown + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")
