"""A reader of iPXE scripts, written from iPXE's own rules (src/core/exec.c) and not from what we write."""

from __future__ import annotations


def commands(script: str) -> list[list[str]]:
    """Return the commands of a script as words, without labels and comments."""
    lines = script.split("\n")
    assert lines[0] == "#!ipxe"
    return [words for line in lines[1:] if not line.startswith(":") and (words := split(line))]


def split(line: str) -> list[str]:
    """Split a line as iPXE does: at white space, with quotes, a backslash and a comment where a word begins."""
    words: list[str] = []
    word, quote, begun, escaped = "", "", False, False
    for char in line:
        if escaped:
            word, escaped, begun = word + char, False, True
        elif char == "\\":
            escaped = True
        elif quote:
            if char == quote:
                quote = ""
            else:
                word += char
        elif char in "'\"":
            quote, begun = char, True
        elif char.isspace():
            if begun:
                words.append(word)
            word, begun = "", False
        elif char == "#" and not begun:
            break
        else:
            word, begun = word + char, True
    assert not quote
    return [*words, word] if begun else words
