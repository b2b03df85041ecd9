"""The report door with many reports at once: each signed by its client, answered when the directory has it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.contenders import CLI, shell
from tests.bench.fleets import site_of, stop, with_fleet
from tests.bench.measure import Row
from tests.bench.results import Bench, Goal, Result

FLEET, AT_ONCE = 10_000, 200
SERVER = [sys.executable, "-m", "tests.bench.reporting"]


def reported(bench: Bench) -> Iterator[Result]:
    """Reports of so many clients of a fleet, all at once, again and again."""
    snapshot, _ = with_fleet(bench, FLEET)
    site = site_of(bench)
    shell(f"{CLI} --site {site} directory account add reports && {CLI} --site {site} directory grant reporter reports")
    key = register(site)
    whole, p99 = Row("all answered"), Row("99 of 100 answered")
    taken = 0
    with door(site) as (url, process):
        for _ in range(bench.rounds):
            cpu_s = cpu_of(process.pid)
            bodies = [body(f"pc-{number:06}", snapshot, key) for number in range(AT_ONCE)]
            answers = asyncio.run(storm(url, bodies))
            times = sorted(wall_s for _, wall_s in answers)
            whole.wall_s.append(times[-1])
            p99.wall_s.append(times[len(times) * 99 // 100 - 1])
            for row in (whole, p99):
                row.cpu_s.append(cpu_of(process.pid) - cpu_s)
            taken += sum(code == 200 for code, _ in answers)
        batches, most = map(int, process.communicate("\n", timeout=60)[0].split())
    lost = bench.rounds * AT_ONCE - min(taken, kept(site) * bench.rounds)
    stop(bench)
    yield Result(
        f"{AT_ONCE} signed reports at once, to a fleet of {FLEET} clients",
        [whole, p99],
        [
            Goal(f"{AT_ONCE} reports at once, p99", 400, p99.wall * 1000, "ms"),
            Goal("reports lost", 0, lost, ""),
            Goal("directory operations of a batch: its search, and runs of changes sent together", 3, most, ""),
        ],
        [f"In {batches} batches. From when all are let go to each answer, over HTTP on loopback; CPU is the door's."],
    )


def register(site: Path) -> Path:
    """Give each of the clients that report the same key; return its file."""
    from statelesskit.audit.keys import create_record_key
    from statelesskit.config import load_site
    from statelesskit.directory import open_directory

    keys = site.parent / "client"
    keys.mkdir()
    create_record_key(keys)
    public = (keys / "record.pub").read_text().strip()
    with open_directory(load_site(site)) as directory:
        for number in range(AT_ONCE):
            name = f"pc-{number:06}"
            entry = {"objectClass": ["skClientStatus"], "cn": ["status", f"{name}/status"], "skKey": [public]}
            directory.ldap.add(directory.layout.status(name), entry, "report", name)
    return keys / "record.key"


def body(client: str, snapshot: str, key: Path) -> bytes:
    from statelesskit.audit import sshsig
    from statelesskit.reports.message import NAMESPACE

    said = {
        "format": 1,
        "client": client,
        "snapshot": snapshot,
        "digest": "sha256:" + "b" * 64,
        "boot_id": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "counter": time.time_ns() // 1_000_000,
        "result": "ok",
        "overlay_bytes": 1 << 20,
        "overlay_limit_bytes": 4 << 20,
    }
    line = json.dumps(said).encode()
    return line + b"\n" + sshsig.sign(line, NAMESPACE, key)


async def storm(url: str, bodies: list[bytes]) -> list[tuple[int, float]]:
    """Return status and time of each, counted from the moment all are let go."""
    from aiohttp import ClientSession, TCPConnector

    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        began = time.perf_counter()

        async def one(data: bytes) -> tuple[int, float]:
            async with session.post(url, data=data) as answer:
                await answer.read()
                return answer.status, time.perf_counter() - began

        return await asyncio.gather(*map(one, bodies))


def kept(site: Path) -> int:
    """Return how many clients the directory says have reported today."""
    from statelesskit.config import load_site
    from statelesskit.directory import open_directory

    with open_directory(load_site(site)) as directory:
        days = [one.seen_at.date() for one in directory.reports() if one.seen_at]
        return days.count(datetime.now(UTC).date())


@contextmanager
def door(site: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve the door in a process of its own; yields its URL. A line to it ends it, and it tells what it did."""
    process = subprocess.Popen([*SERVER, str(site)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.wait()


def cpu_of(pid: int) -> float:
    """Return the CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def serve(root: str) -> None:
    """Be the door until a line comes in; then print how many batches there were, and the most operations of one."""
    from aiohttp import web

    from statelesskit.config import load_site
    from statelesskit.directory import wire
    from statelesskit.reports.door import Door
    from statelesskit.reports.writer import Writer

    operations: list[int] = []
    tell, pages, keep = wire.tell, wire.pages, Writer._keep

    def counted_tell(*args: object) -> object:
        operations[-1] += 1
        return tell(*args)  # type: ignore[arg-type]

    def counted_pages(*args: object) -> object:
        operations[-1] += 1
        return pages(*args)  # type: ignore[arg-type]

    def counted_keep(*args: object) -> object:
        operations.append(0)
        return keep(*args)  # type: ignore[arg-type]

    wire.tell, wire.pages = counted_tell, counted_pages  # type: ignore[assignment]
    Writer._keep = counted_keep  # type: ignore[assignment,method-assign]
    writer = Writer(load_site(Path(root)))
    app = web.Application()
    app.add_routes(Door(writer).routes())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/report", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await runner.cleanup()
    writer.close()
    print(len(operations), max(operations[1:]))  # the first asked for the schema's version too


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
