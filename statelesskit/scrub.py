"""Keep secrets out of everything that is written about a run.

What is known of a site's secrets (its keys, its passwords, the credentials systemd gave us) is taken out of each
text before it is written. What only looks like a secret is refused as a parameter: there it would be in the
process list and the record for good.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from statelesskit.errors import ParameterError

MARK = "[secret]"
LEAST, MOST = 4, 1 << 16  # characters of a secret: what is shorter is in too many words; bytes of a file with one
CREDENTIALS = "CREDENTIALS_DIRECTORY"  # systemd.exec(5)
_PUBLIC = {".crt", ".pub"}
_NAME = re.compile(
    r"(^|[_-])(pass(word|wd|phrase)|secret|token|api[_-]?key|private[_-]?key|credentials?)s?([_-](?!file|path|name)|$)",
    re.I,
)
_VALUE = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----"
    r"|\b(AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+)"
    r"|\{(SSHA|SHA|SMD5|CRYPT)[0-9]*\}\S{8}|\$(1|2[aby]|5|6|y)\$\S{8}"
    r"|\b(password|passwd|passphrase|secret|token|api[_-]?key)\s*[=:]\s*\S{4}",
    re.I,
)

_watched: set[Path] = set()  # files, and folders of files
_learnt: set[str] = set()
_read: dict[Path, tuple[tuple[int, int], frozenset[str]]] = {}


def watch(*paths: Path) -> None:
    """Take what these files hold for secrets from now on, and what the files in these folders hold."""
    _watched.update(paths)


def learn(secret: str) -> None:
    """Take a text for a secret from now on."""
    _learnt.add(secret)


def text(value: str) -> str:
    """Return a text without the secrets that are known."""
    for secret in _known():
        if secret in value:
            value = value.replace(secret, MARK)
    return value


def data(value: bytes) -> bytes:
    """Return a file's bytes without the secrets that are known."""
    for secret in _known():
        if (raw := secret.encode("utf-8", "surrogateescape")) in value:
            value = value.replace(raw, MARK.encode())
    return value


def plain(value: Any) -> Any:
    """Return JSON without the secrets that are known, in keys too."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return {plain(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


def in_place(value: Any) -> None:
    """Take the secrets that are known out of nested lists and mappings, such as a notebook."""
    for name, one in [*value.items()] if isinstance(value, dict) else [*enumerate(value)]:
        if isinstance(one, str):
            if (clean := text(one)) != one:
                value[name] = clean
        elif isinstance(one, (dict, list)):
            in_place(one)


def looks_secret(name: str, value: Any) -> bool:
    """Say whether a parameter is, by its name or its value, something that must not be one."""
    shown = str(value)
    return bool(_NAME.search(name) or _VALUE.search(shown) or text(shown) != shown)


def refuse_secrets(given: Mapping[str, Any]) -> None:
    """Refuse parameters that are secrets, without repeating them; they are taken for secrets from then on.

    Raises:
        ParameterError: one is; the message names it, not its value.
    """
    if found := [name for name, value in given.items() if looks_secret(name, value)]:
        for name in found:
            learn(str(given[name]))
        raise ParameterError(
            f"{', '.join(map(text, found))}: looks like a secret, and secrets are never parameters",
            hint="give the name of a file or of a systemd credential that holds it; others may know now what was given",
        )


def without_secrets(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with those that are secrets blanked."""
    return {text(name): MARK if looks_secret(name, value) else value for name, value in given.items()}


def _known() -> list[str]:
    """Return all spellings of all secrets, the longest first, so that none is left in another's rest."""
    if folder := os.environ.get(CREDENTIALS):
        _watched.add(Path(folder))
    found = {secret for path in _watched for secret in _of(path)} | _learnt
    return sorted(
        {one for secret in found if len(secret) >= LEAST for one in _spellings(secret)}, key=lambda one: -len(one)
    )


def _of(path: Path) -> Iterator[str]:
    try:
        files = [path] if path.is_file() else [child for child in path.iterdir() if child.is_file()]
    except OSError:  # not there, or not ours to read: then it can't be in what we write
        return
    for file in files:
        if file.suffix not in _PUBLIC and not file.name.startswith("."):
            yield from _lines(file)


def _lines(file: Path) -> frozenset[str]:
    """Return the lines of a file of secrets; of a key in PEM each is one, but for the first and last."""
    try:
        info = file.stat()
        state = (info.st_mtime_ns, info.st_size)
        if _read.get(file, ((), frozenset()))[0] != state:
            lines = file.read_bytes()[:MOST].decode("utf-8", "surrogateescape").splitlines()
            _read[file] = (state, frozenset(line for line in lines if line and not line.startswith("-----")))
    except OSError:
        return frozenset()
    return _read[file][1]


def _spellings(secret: str) -> Iterator[str]:
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield json.dumps(json.dumps(secret)[1:-1])[1:-1]
    yield repr(secret)[1:-1]
    yield html.escape(secret)
    yield quote(secret, safe="", errors="replace")
    yield base64.b64encode(secret.encode("utf-8", "surrogateescape")).decode().rstrip("=")
