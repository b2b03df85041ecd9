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
SocketMode=0666
RemoveOnStop=yes

[Install]
WantedBy=sockets.target

# /etc/systemd/system/statelesskit-service.service
[Unit]
Description=statelesskit: performs what admins ask of {root}
Requires=statelesskit-service.socket
After=network.target

[Service]
ExecStart={python} -I -m statelesskit.service.server --site {root}
KillMode=mixed
TimeoutStopSec=60
UMask=0022
NoNewPrivileges=yes
ProtectSystem=full
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
"""


def unit_text(root: Path) -> str:
    """Return both units, each below a comment that says where it belongs."""
    return _TEXT.format(root=_word(root), socket=_word(root / SOCKET), python=_word(Path(sys.executable)))


def _word(path: Path) -> str:
    """Return a path as systemd.syntax(7) wants it: a percent sign or a space would be more than itself."""
    text = str(path).replace("\\", "\\x5c").replace("%", "%%")
    return "".join(f"\\x{ord(one):02x}" if one in " \"'$;\t\n" else one for one in text)
