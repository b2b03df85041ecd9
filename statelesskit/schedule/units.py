"""What systemd or cron is given for a schedule.

The service is ``Type=oneshot``: while it runs, its timer begins no second one. Stopped, only its main process is told
(``KillMode=mixed``), which interrupts the notebook's kernel and lets it clean up; what is left then is killed. It runs
as the site's owner and may write below the site only; what else it may not do leaves it the namespaces that guard
the kernel, and the sockets of LDAP servers. It needs no home: the run has an empty one.
"""

from __future__ import annotations

import pwd
import shlex
import sys
from pathlib import Path

from statelesskit.config import Site
from statelesskit.errors import ParameterError
from statelesskit.schedule.entry import Schedule

FOLDER = Path("/etc/systemd/system")
STOP_S = 60  # a run is given 10 s to clean up, and then writes its record

_SERVICE = """\
# Made by statelesskit for the site {root}; what is changed here is lost when it is scheduled anew.
[Unit]
Description=statelesskit: {runbook}, as schedule {name} of {site}
Wants=network-online.target
After=network-online.target time-sync.target
OnFailure={unit}-failed.service

[Service]
Type=oneshot
{run_as}
ExecStart={run}
KillMode=mixed
TimeoutStopSec={stop}
UMask=0022
{credentials}
{hardening}
"""

_FAILED = """\
# Made by statelesskit for the site {root}; what is changed here is lost when it is scheduled anew.
[Unit]
Description=statelesskit: tell that schedule {name} of {site} failed

[Service]
Type=oneshot
{run_as}
ExecStart={failed}
TimeoutStartSec=2min
UMask=0022
"""

_TIMER = """\
# Made by statelesskit for the site {root}; what is changed here is lost when it is scheduled anew.
[Unit]
Description=statelesskit: when {runbook} runs, as schedule {name} of {site}

[Timer]
OnCalendar={calendar}
Persistent=true
RandomizedDelaySec={jitter}
AccuracySec=1s

[Install]
WantedBy=timers.target
"""

# Left out, as runs need them: mount and unshare (prototypes, the kernel's guard), device nodes, set-id files and
# trusted attributes (exports), other users' files (root's capabilities), writable and executable memory (Python).
_HARDENING = """\
NoNewPrivileges=yes
PrivateTmp={private_tmp}
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable}
ProtectClock=yes
ProtectHostname=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_BOOT CAP_SYS_TIME CAP_SYS_PTRACE CAP_SYS_TTY_CONFIG
CapabilityBoundingSet=~CAP_NET_ADMIN CAP_NET_RAW CAP_SYSLOG CAP_BPF CAP_PERFMON CAP_WAKE_ALARM CAP_BLOCK_SUSPEND
CapabilityBoundingSet=~CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_AUDIT_WRITE CAP_SYS_PACCT
SystemCallFilter=~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
KeyringMode=private"""


def unit_name(name: str) -> str:
    """Return the name of a schedule's units, without what they end with."""
    return f"statelesskit-{name}"


def render(site: Site, schedule: Schedule) -> dict[str, str]:
    """Return the units of a schedule: each one's file name and text.

    Raises:
        ParameterError: a path can't be written into a unit.
    """
    command = [sys.executable, "-I", "-m", "statelesskit", "--site", str(site.root), "schedule"]
    secret = site.server.password_file
    credential = f"LoadCredential={secret}:{_value(str(site.root / secret))}" if secret and "/" not in secret else ""
    unit = unit_name(schedule.name)
    words = {
        "root": _plain(str(site.root)),
        "site": _value(_plain(site.name)),
        "name": schedule.name,
        "runbook": _value(_plain(schedule.runbook)),
        "unit": unit,
        "run_as": _run_as(site),
        "run": " ".join(map(_word, [*command, "run", schedule.name])),
        "failed": " ".join(map(_word, [*command, "failed", schedule.name])),
        "stop": f"{STOP_S}s",
        "credentials": credential,
        "hardening": _HARDENING.format(writable=_quoted(_value(str(site.root))), private_tmp=_private_tmp(site)),
        "calendar": schedule.calendar,
        "jitter": f"{schedule.jitter_s}s",
    }
    parts = ((".service", _SERVICE), ("-failed.service", _FAILED), (".timer", _TIMER))
    return {unit + ending: text.format(**words).replace("\n\n[", "\0").replace("\n\n", "\n").replace("\0", "\n\n[")
            for ending, text in parts}  # fmt: skip


def cron_line(site: Site, schedule: Schedule) -> str:
    """Return the line of ``/etc/cron.d`` that does the same; raises as :meth:`Calendar.cron`."""
    command = shlex.join([sys.executable, "-I", "-m", "statelesskit", "--site", str(site.root), "schedule"])
    line = f"{command} run {schedule.name} || {command} failed {schedule.name}".replace("%", r"\%")
    return f"{schedule.due().cron()} {_owner(site)} {line}"


def _private_tmp(site: Site) -> str:
    """Return "yes", but for a site that lies where it would be hidden then."""
    return "no" if any(site.root.is_relative_to(folder) for folder in ("/tmp", "/var/tmp")) else "yes"  # noqa: S108


def _run_as(site: Site) -> str:
    owner = _owner(site)
    return "" if owner == "root" else f"User={owner}"


def _owner(site: Site) -> str:
    uid = site.root.stat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _plain(text: str) -> str:
    if not text.isprintable():
        raise ParameterError(f"{text!r} can't be written into a unit of systemd", hint="move the site elsewhere")
    return text


def _value(text: str) -> str:
    """Escape what systemd.unit(5) calls specifiers."""
    return _plain(text).replace("%", "%%")


def _word(text: str) -> str:
    """Return one word of a command line, as systemd.service(5) reads it."""
    return _quoted(_value(text).replace("$", "$$"))


def _quoted(text: str) -> str:
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return plain if plain == text and " " not in text and "'" not in text else f'"{plain}"'
