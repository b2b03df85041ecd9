"""Calendars are reckoned as systemd reckons them: held against systemd-analyze itself."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statelesskit.calendars import local_zone, read_calendar
from statelesskit.errors import ParameterError

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
KNOWN = [
    "Mon..Fri 02:30 Europe/Berlin",
    "Sun 02:30 Europe/Berlin",  # once a year there is no such time, once there are two
    "*-*-* 01:15:30 America/New_York",
    "*-*-* 00:30 Asia/Kolkata",
    "Sun *-*-1..7 04:00 Australia/Lord_Howe",  # whose clock jumps by half an hour
    "*-*-01 04:00:00 UTC",
    "*-2..4-1,15 0/7:15:30 Europe/Berlin",  # systemd 252 loses 1 March if the 28th is named too
    "Mon,Wed *-*-* 08,20:15 America/New_York",
    "2026..2028-02-29 12:00 UTC",
    "hourly UTC",
    "daily UTC",
    "weekly Pacific/Auckland",
    "monthly UTC",
    "yearly UTC",
]


def systemd(calendar: str, count: int) -> list[datetime]:
    argv = [
        "systemd-analyze",
        "calendar",
        "--base-time",
        "2025-12-31 23:59:59 UTC",
        "--iterations",
        str(count),
        calendar,
    ]
    environment = {"TZ": "UTC", "PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    in_utc = re.findall(r"(?:Next elapse|Iter(?:ation|\.) #\d+|\(in UTC\)): \w+ (\S+ \S+) UTC", done.stdout)
    return [datetime.strptime(one, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) for one in in_utc]


@pytest.mark.systemd
@pytest.mark.parametrize("text", KNOWN)
def test_it_is_due_when_systemd_says(text: str) -> None:
    calendar = read_calendar(text)
    theirs = systemd(str(calendar), 300)
    assert theirs
    assert list(calendar.between(SINCE, theirs[-1])) == theirs


weekdays = st.sets(st.sampled_from(["Mon", "Tue", "Thu", "Sun"]), max_size=3).map(lambda days: ",".join(sorted(days)))
two = st.tuples(st.integers(1, 12), st.integers(2, 28), st.integers(0, 23), st.integers(0, 39))


@pytest.mark.systemd
@settings(deadline=None, max_examples=60)
@given(weekdays, two, st.sampled_from(["Europe/Berlin", "UTC", "America/Sao_Paulo"]), st.sampled_from(["*", "{}"]))
def test_so_is_what_nobody_thought_of(days: str, parts: tuple[int, ...], zone: str, month: str) -> None:
    text = f"{days} *-{month.format(parts[0])}-1..{parts[1]} {parts[2]}:{parts[3]}/20 {zone}"
    calendar = read_calendar(text)
    theirs = systemd(str(calendar), 20)
    assert list(calendar.between(SINCE, theirs[-1])) == theirs


@pytest.mark.parametrize(
    "text",
    ["", "now", "25:00", "02:60", "Mon..Fri x", "Fri..Mon 02:00x", "*-13-01", "02:30 Mars/Olympus", "*-*~1", "1 2 3 4",
     "02:30; rm -rf /", "*:*/0", "Mon 02:30\nUnit=evil.service", "x" * 9999, "\x1b[2J"],
)  # fmt: skip
def test_what_is_no_calendar_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="is no calendar"):
        read_calendar(text, "UTC")


@given(st.text(max_size=40))
def test_any_text_is_a_calendar_or_refused(text: str) -> None:
    try:
        calendar = read_calendar(text, "UTC")
    except ParameterError:
        return
    assert str(calendar).isprintable()
    assert read_calendar(str(calendar)) == calendar


def test_cron_is_told_what_it_can_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert read_calendar("Mon..Fri 02:30").cron() == "30 2 * * 1,2,3,4,5"
    assert read_calendar("Sun 00/12:05").cron() == "5 0,12 * * 0"
    assert read_calendar("monthly").cron() == "0 0 1 * *"
    for text in ("02:30:30", "2027-*-* 02:30", "Mon *-*-01 02:30", "02:30 UTC"):
        with pytest.raises(ParameterError, match="cron can't say"):
            read_calendar(text).cron()


def test_the_hosts_zone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)
    (tmp_path / "etc").mkdir()
    assert local_zone(tmp_path) == "UTC"
    (tmp_path / "etc/localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    assert local_zone(tmp_path) == "Europe/Berlin"
    monkeypatch.setenv("TZ", ":America/New_York")
    assert local_zone(tmp_path) == "America/New_York"
