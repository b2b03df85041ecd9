"""How a snapshot travels from one site to another, over two pipes: to a process, or through ssh to another host.

Version 1. Lines are JSON objects, ended by a newline; numbers are big-endian.

1. The receiver says ``{"statelesskit-copy":1}``.
2. The sender says ``{"about":{…},"manifest_bytes":n}``: what its ``snapshot.json`` holds, and then the n bytes
   of ``manifest.jsonl.zst``.
3. The receiver says ``{"missing":n}``, and then n digests of 32 bytes each: the objects it does not have.
4. The sender gives these objects, in whatever order: the digest, then its content in pieces, each led by its
   length (32 bits); a length of 0 ends the object.
5. The receiver asks again as in 3 (something was collected there meanwhile), or says ``{"missing":0}`` when
   it has all.

Neither side trusts the other: every length has a bound, and everything is held against its digest.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from typing import IO, Any

from statelesskit.errors import FormatError

VERSION = 1
LINE_MAX = 1024 * 1024  # bytes
PIECE_MAX = 16 * 1024 * 1024
DIGEST = 32
LENGTH = struct.Struct(">I")


class Wire:
    """One end: what comes in, and where to write."""

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
        self._incoming, self._outgoing = incoming, outgoing

    def say(self, **facts: Any) -> None:
        """Send a line."""
        self._outgoing.write(json.dumps(facts, sort_keys=True).encode("ascii") + b"\n")
        self._outgoing.flush()

    def hear(self) -> dict[str, Any]:
        """Receive a line.

        Raises:
            FormatError: it is none.
            EOFError: the other side has gone away.
        """
        line = self._incoming.readline(LINE_MAX)
        if not line:
            raise EOFError("the other side has gone away")
        try:
            heard = json.loads(line)
            if not line.endswith(b"\n") or not isinstance(heard, dict):
                raise ValueError("no line")
        except (ValueError, RecursionError) as error:
            raise FormatError("the other side does not speak the protocol of copying") from error
        return heard

    def number(self, heard: dict[str, Any], name: str, most: int) -> int:
        """Return a number that was heard. Raises FormatError if it is none, or too large."""
        value = heard.get(name)
        if type(value) is not int or not 0 <= value <= most:
            raise FormatError(f"the other side said {name} is {str(value)[:40]}, expected 0 to {most}")
        return value

    def send(self, data: bytes) -> None:
        """Send bytes; they go out with the next line, or when enough have come together."""
        self._outgoing.write(data)

    def receive(self, size: int) -> bytes:
        """Receive so many bytes. Raises EOFError if fewer come."""
        data = self._incoming.read(size)
        if len(data) != size:
            raise EOFError("the other side has gone away")
        return data

    def send_object(self, digest: bytes, pieces: Iterable[bytes]) -> None:
        """Send an object."""
        self.send(digest)
        for piece in pieces:
            for start in range(0, len(piece), PIECE_MAX):
                part = piece[start : start + PIECE_MAX]
                self.send(LENGTH.pack(len(part)) + part)
        self.send(LENGTH.pack(0))

    def receive_pieces(self, most: int) -> Iterator[bytes]:
        """Yield the pieces of an object whose digest was received. Raises FormatError above ``most`` bytes."""
        while size := LENGTH.unpack(self.receive(LENGTH.size))[0]:
            most -= size
            if size > PIECE_MAX or most < 0:
                raise FormatError("the other side sends an object longer than its manifest says")
            yield self.receive(size)

    def flush(self) -> None:
        self._outgoing.flush()
