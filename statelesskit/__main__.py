"""``python -m statelesskit``: the command line without a script on PATH."""

from statelesskit.cli import main

main()
