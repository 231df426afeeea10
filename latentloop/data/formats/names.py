"""Which column holds the user, the item and the time."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from latentloop.errors import InputError

__all__ = ["Wanted", "find_item", "find_user", "listed"]

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
# Taken where it is the only one, since it may be known by several: Online Retail's, H&M's, Spotify's and shops' names.
_LAST_CHOICE = {
    "item": ("stock_code",),
    "timestamp": ("order_date", "invoice_date", "created_at", "played_at", "t_dat"),
}
_NO_TIME = ("", "none")


@dataclass(frozen=True)
class Wanted:
    """The column names a user gave; None where they are to be recognised.

    Args:
        user: column of user ids.
        item: column of item ids.
        timestamp: column of timestamps; "", or "none" where no column has that name, leaves the times out.
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
        if time is None and self.timestamp is not None:
            logger.warning("%s: no times are read, as asked: the order of the rows is taken for theirs", name)
        elif time is None and others:
            logger.warning(
                "%s: no column recognised as the time of an action, so the order of the rows is taken for it; if one of %s "
                "tells it, name that (--timestamp)",
                name,
                listed(others),
            )
        return user, item, time

    @property
    def any(self) -> bool:
        """Whether a column was named."""
        time = None if self.timestamp in _NO_TIME else self.timestamp
        return any(given is not None for given in (self.user, self.item, time))

    @staticmethod
    def _one(columns: Sequence[str], what: str, given: str | None, name: str) -> int | None:
        if given is not None:
            found = [i for i, column in enumerate(columns) if column == given]
            found = found or [i for i, column in enumerate(columns) if column.partition(":")[0].strip() == given]
            if what == "timestamp" and given in _NO_TIME and (not given or not found):  # pandas calls its index ""
                return None
            if not found:
                raise InputError(
                    f"{name}: no column {given!r} for the {what}; columns found: {listed(columns)}", settings=(what,)
                )
        else:
            plain = [column.partition(":")[0].strip().lower() for column in columns]
            found = [i for i, column in enumerate(plain) if column in _KNOWN[what]]
            found = found or [i for i, column in enumerate(plain) if column in _SECOND_CHOICE.get(what, ())]
            found = found or _only(plain, (*_KNOWN[what], *_SECOND_CHOICE.get(what, ()), *_LAST_CHOICE.get(what, ())))
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


def _only(columns: Sequence[str], known: Sequence[str]) -> list[int]:
    """The one column of a known name however its words are joined, as in "User ID", "user-id" and "UserId"; else none."""
    names = {_joined(name) for name in known}
    found = [place for place, column in enumerate(columns) if _joined(column) in names]
    return found if len(found) == 1 else []


def _joined(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name)


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


def find_user(columns: Sequence[str], name: str) -> int | None:
    """The position of the column of user ids, None where none is recognised.

    Args:
        columns: the names found in the source.
        name: what errors call the source.

    Raises:
        InputError: more than one that could be meant.
    """
    return Wanted._one(columns, "user", None, name)


def listed(columns: Sequence[str]) -> str:
    """Names as an error shows them."""
    shown = ", ".join(repr(column) for column in columns[:20])
    return shown + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")
