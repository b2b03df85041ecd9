"""When something that recurs is due: systemd's calendar events, so much of them as schedules need.

``Mon..Fri 02:30``, ``*-*-01 04:00:00``, ``daily``: weekdays, a date, a time; in each place lists, ranges with ``..``,
steps with ``/`` and ``*`` (systemd.time(7)). They are told by the clock of one time zone, which is always named, so
that an auditor elsewhere and a server whose zone was changed mean the same moments. Reckoned here, as systemd is not
where auditors are; the tests hold it against systemd's own reckoning.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from itertools import product
from pathlib import Path
from zoneinfo import ZoneInfo

from statelesskit.errors import ParameterError
from statelesskit.names import printable

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FULL = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WORDS = {
    "hourly": "*-*-* *:00:00",
    "daily": "*-*-* 00:00:00",
    "weekly": "Mon *-*-* 00:00:00",
    "monthly": "*-*-01 00:00:00",
    "yearly": "*-01-01 00:00:00",
}
_ZONE = re.compile(r"[A-Za-z_]+(?:/[A-Za-z0-9_+-]+)+|UTC", re.ASCII)
_LIMITS = {
    "year": (1970, 2199),
    "month": (1, 12),
    "day": (1, 31),
    "hour": (0, 23),
    "minute": (0, 59),
    "second": (0, 59),
}


@dataclass(frozen=True, slots=True)
class Calendar:
    """When something is due, read by :func:`read_calendar`.

    Attributes:
        text: as it was given, without a word that stands for more, and without the zone.
        zone: the name of the time zone whose clock it is told by.
        weekdays: 0 is Monday.
        fields: of each part of date and time what it may be; None for anything.
    """

    text: str
    zone: str
    weekdays: frozenset[int]
    fields: dict[str, frozenset[int] | None]

    def __str__(self) -> str:
        return f"{self.text} {self.zone}"

    def between(self, since: datetime, until: datetime) -> Iterator[datetime]:
        """Yield when it is due, in UTC, from ``since`` to ``until``, both counted in.

        What falls into the hour that a clock jumps over in spring is not due; what falls into the one it repeats
        in autumn is due once, the first time.
        """
        zone = zone_of(self.zone)
        times = [time(h, m, s) for h, m, s in product(self._all("hour"), self._all("minute"), self._all("second"))]
        day, last = since.astimezone(zone).date(), until.astimezone(zone).date()
        while day <= last:
            if self._is_on(day):
                for one in times:
                    local = datetime.combine(day, one, zone)
                    due = local.astimezone(UTC)
                    if since <= due <= until and due.astimezone(zone).replace(tzinfo=None) == local.replace(
                        tzinfo=None
                    ):
                        yield due
            day += timedelta(days=1)

    def cron(self) -> str:
        """Return the five fields that say the same to cron, whose clock is the host's.

        Raises:
            ParameterError: cron can't say it.
        """
        both = self.fields["day"] is not None and len(self.weekdays) < 7  # cron would take either for enough
        if (
            both
            or self.fields["year"] is not None
            or self.fields["second"] != frozenset({0})
            or self.zone != local_zone()
        ):
            raise ParameterError(
                f"cron can't say {str(self)!r}: it knows no seconds, no years, no days of month and week at once, and "
                f"no clock but this host's ({local_zone()})",
                hint="use systemd's timer, or another time",
            )
        week = {(day + 1) % 7 for day in self.weekdays} if len(self.weekdays) < 7 else None
        parts = [*(self.fields[name] for name in ("minute", "hour", "day", "month")), week]
        return " ".join("*" if part is None else ",".join(map(str, sorted(part))) for part in parts)

    def _all(self, field: str) -> list[int]:
        low, high = _LIMITS[field]
        found = self.fields[field]
        return sorted(range(low, high + 1) if found is None else found)

    def _is_on(self, day: date) -> bool:
        date_parts = (("year", day.year), ("month", day.month), ("day", day.day))
        fits = all(
            allowed is None or value in allowed for allowed, value in ((self.fields[n], v) for n, v in date_parts)
        )
        return day.weekday() in self.weekdays and fits


def read_calendar(text: str, zone: str = "") -> Calendar:
    """Read a calendar event; its zone is the one it names, else ``zone``, else the host's.

    Raises:
        ParameterError: it is none, or says more than we know.
    """
    words = text.split()
    try:
        if words and words[-1] not in _WORDS and _ZONE.fullmatch(words[-1]) and not re.search("[0-9:*]", words[-1][0]):
            zone = words.pop()
        zone = zone or local_zone()
        zone_of(zone)
        if not words:
            raise ValueError
        words = [part for word in words for part in _WORDS.get(word.lower(), word).split()]
        days = _weekdays(words.pop(0)) if words and words[0][:1].isalpha() else frozenset(range(7))
        date_words = words.pop(0).split("-") if words and ":" not in words[0] else ["*", "*", "*"]
        time_words = words.pop(0).split(":") if words else ["00", "00"]
        date_words = ["*", *date_words] if len(date_words) == 2 else date_words
        time_words = [*time_words, "00"] if len(time_words) == 2 else time_words
        if words or len(date_words) != 3 or len(time_words) != 3:
            raise ValueError
        parts = zip(_LIMITS, [*date_words, *time_words], strict=True)
        fields = {name: _numbers(word, *_LIMITS[name]) for name, word in parts}
    except (ValueError, KeyError, IndexError, OSError):
        raise ParameterError(
            f"{printable(text)!r} is no calendar that is known here",
            hint='write it as "Mon..Fri 02:30", "*-*-01 04:00", "daily" or "*-*-* 08,20:15 Europe/Berlin"',
        ) from None
    named = "" if len(days) == 7 else ",".join(DAYS[day] for day in sorted(days)) + " "
    return Calendar(f"{named}{'-'.join(date_words)} {':'.join(time_words)}", zone, days, fields)


def _weekdays(word: str) -> frozenset[int]:
    found: set[int] = set()
    for part in word.split(","):
        low, dots, high = part.partition("..")
        first, last = _weekday(low), _weekday(high if dots else low)
        if first > last:
            raise ValueError
        found |= {*range(first, last + 1)}
    return frozenset(found)


def _weekday(word: str) -> int:
    return [full[: len(word)] if len(word) == 3 else full for full in _FULL].index(word.lower())


def _numbers(word: str, low: int, high: int) -> frozenset[int] | None:
    """Return what one part of a date or a time allows: ``*``, ``7``, ``1,15``, ``8..18``, ``0/15``."""
    if word == "*":
        return None
    found: set[int] = set()
    for part in word.split(","):
        span, slash, step = part.partition("/")
        first, dots, last = span.partition("..")
        begin = _number(first)
        end = _number(last) if dots else high if slash else begin
        stride = _number(step) if slash else 1
        # A range of one and a step that leads nowhere are what systemd refuses too.
        if not low <= begin <= end <= high or (dots and begin == end) or (slash and not 0 < stride <= end - begin):
            raise ValueError
        found |= {*range(begin, end + 1, stride)}
    return frozenset(found)


def _number(word: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", word, re.ASCII):
        raise ValueError
    return int(word)


def zone_of(name: str) -> tzinfo:
    """Return a time zone by name.

    Raises:
        KeyError, ValueError: there is none here.
    """
    return UTC if name == "UTC" else ZoneInfo(name)


def local_zone(root: Path = Path("/")) -> str:
    """Return the name of this host's time zone; UTC where none is set."""
    named = os.environ.get("TZ", "").removeprefix(":")
    if not named:
        try:
            named = str((root / "etc/localtime").readlink()).rpartition("zoneinfo/")[2]
        except OSError:
            named = "UTC"
    return named if _ZONE.fullmatch(named) and named not in ("Etc/UTC", "Etc/UCT") else "UTC"
