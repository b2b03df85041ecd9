"""The systemd units of a site's service: the socket, which starts it when somebody comes, and the service."""

from __future__ import annotations

import sys
from pathlib import Path

from statelesskit.service.wire import SOCKET

# What prototypes and exports need stays open: mounts, namespaces, device nodes, other users' files, the network.
_TEXT = """\
# /etc/systemd/system/statelesskit-service.socket
[Unit]
Description=statelesskit: what admins ask of {root}

[Socket]
ListenStream={socket}
{access}
RemoveOnStop=yes

[Install]
WantedBy=sockets.target

# /etc/systemd/system/statelesskit-service.service
[Unit]
Description=statelesskit: performs what admins ask of {root}
Requires=statelesskit-service.socket
After=network.target

[Service]
ExecStart={python} -I -m statelesskit.service.server --site {word}
KillMode=mixed
TimeoutStopSec=60
UMask=0022
NoNewPrivileges=yes
ProtectSystem=full
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
"""


def unit_text(root: Path, group: str = "") -> str:
    """Return both units, each below a comment that says where it belongs; ``group`` is who may connect."""
    access = f"SocketMode=0660\nSocketGroup={group}" if group else "SocketMode=0666"
    return _TEXT.format(
        root=_setting(root),
        socket=_setting(root / SOCKET),
        access=access,
        word=_word(root),
        python=_word(Path(sys.executable)),
    )


def _setting(path: Path) -> str:
    return str(path).replace("%", "%%")  # systemd.unit(5), specifiers


def _word(path: Path) -> str:
    """Return a path as one word of a command line: systemd.service(5), command lines."""
    text = "".join(f"\\x{ord(one):02x}" if one in " \"'\\;\t" else one for one in str(path))
    return text.replace("%", "%%").replace("$", "$$")
