"""The one door to other programs: argument lists only, a clean environment, no shell, no terminal."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from statelesskit.errors import CommandError, MissingToolError, TimedOutError

# What a child may see of our environment. Everything else (credentials, PYTHONPATH, LD_*) stays here.
PASSED_ON = ("HOME", "LOGNAME", "TMPDIR", "USER", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Which Debian package brings a program, for the hint when it is missing.
PACKAGE_OF = {
    "grub-mkimage": "grub-common",
    "ldapsearch": "ldap-utils",
    "mcopy": "mtools",
    "mformat": "mtools",
    "mkfs.erofs": "erofs-utils",
    "mksquashfs": "squashfs-tools",
    "mmd": "mtools",
    "mmdebstrap": "mmdebstrap",
    "skopeo": "skopeo",
    "slapadd": "slapd",
    "slapcat": "slapd",
    "slapd": "slapd",
    "ssh": "openssh-client",
    "tar": "tar",
    "unshare": "util-linux",
    "unsquashfs": "squashfs-tools",
    "veritysetup": "cryptsetup-bin",
    "xorriso": "xorriso",
}


def find_tool(name: str) -> str:
    """Return the absolute path of a program.

    Raises:
        MissingToolError: it is on none of the system's program folders.
    """
    found = shutil.which(name, path=SYSTEM_PATH)
    if not found:
        package = PACKAGE_OF.get(name)
        hint = f"apt-get install {package}" if package else ""
        raise MissingToolError(f"the program {name} is not installed", hint=hint)
    return found


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a child: a fixed PATH and locale, and the few variables passed on."""
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **kept, **(extra or {})}


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = None,
    stdin: bytes | None = None,
    check: bool = True,
    on_line: Callable[[str], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it printed.

    Args:
        env: added to the clean environment of :func:`child_environment`.
        stdin: bytes for its standard input; without them it reads end of file.
        on_line: called with every line of its standard error as it comes, for progress.

    Raises:
        MissingToolError: no such program.
        CommandError: it ended with anything but 0, unless ``check`` is false.
        TimedOutError: it was killed after ``timeout_s`` seconds.
    """
    words = [os.fspath(word) for word in argv]
    args = [find_tool(words[0]), *words[1:]]
    with subprocess.Popen(
        args,
        env=child_environment(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
    ) as process:  # closes the pipes, whatever happens
        try:
            if on_line:
                out, err = _follow(process, on_line)
            else:
                out, err = process.communicate(stdin.decode() if stdin is not None else None, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise TimedOutError(f"{args[0]} did not end within {timeout_s:g} s") from None
        except BaseException:
            # Ctrl-C or a signal's exception: never leave the child behind.
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
    if check and process.returncode:
        raise CommandError(args, process.returncode, err)
    return subprocess.CompletedProcess(args, process.returncode, out, err)


@contextmanager
def conversing(
    argv: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str] | None = None
) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Run a program while the block talks with it: yields its standard input and its standard output.

    At the end of the block its input is closed and it is waited for; after an exception it is stopped if it
    does not end by itself.

    Raises:
        MissingToolError: no such program.
        CommandError: it ended with anything but 0, also where the block saw that as a broken pipe or an EOFError.
    """
    words = [os.fspath(word) for word in argv]
    args = [find_tool(words[0]), *words[1:]]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            args, env=child_environment(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        try:
            yield process.stdin, process.stdout
            process.stdin.close()
            process.wait()
        except (BrokenPipeError, EOFError):  # it broke off the talk, and says why
            with suppress(OSError):
                process.stdin.close()
            if process.wait() == 0:
                raise
        except BaseException:
            with suppress(OSError):
                process.stdin.close()
            try:  # nothing more comes: it cleans up and ends by itself, undisturbed
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.terminate()
            raise
        errors.seek(0)
        if process.returncode:
            raise CommandError(args, process.returncode, errors.read().decode(errors="backslashreplace"))


def _follow(process: subprocess.Popen[str], on_line: Callable[[str], None]) -> tuple[str, str]:
    """Feed standard error to ``on_line`` while standard output is drained by a thread."""
    import threading

    out: list[str] = []
    drain = threading.Thread(target=lambda pipe: out.append(pipe.read()), args=(process.stdout,), daemon=True)
    drain.start()
    err = []
    for line in process.stderr or ():
        err.append(line)
        on_line(line.rstrip("\n"))
    process.wait()
    drain.join()
    return "".join(out), "".join(err)
