"""The iPXE scripts of the publication: text made of names, nothing else.

Scripts lead to each other by relative addresses, so they work behind any name, port and folder. They replace one
another (``--replace``), so that a machine may try again for ever, and each deals with its own failures: a machine
that can't boot says why and asks anew, until somebody has mended it. iPXE can't quote ``${``: names that are not
ours get no script, and other text is cut down to harmless characters.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from statelesskit.names import check_name, normalise_mac, printable, prototype_of, split_channel

AGAIN_S = 30
_HARMLESS = re.compile(r"[^A-Za-z0-9 .,:;/_()+=-]")
_LEADS_TO = re.compile(r"^chain .*?(channel/[^/ ]+/[^/ ]+|snapshots/[^/ ]+)(?:/boot)?\.ipxe", re.ASCII | re.MULTILINE)


def client_path(mac: str) -> str:
    """Return where a machine's script is, below ``boot``."""
    return f"by-mac/{normalise_mac(mac).replace(':', '-')}.ipxe"


def channel_path(channel: str) -> str:
    """Return where a channel's script is, below ``boot``."""
    prototype, name = split_channel(channel)
    return f"channel/{prototype}/{name}.ipxe"


def start(url: str) -> str:
    """Return the first script of every machine: it leads to the one of its network card.

    Args:
        url: what is published, as machines reach it; "" if iPXE itself is to say from where it came, which those
            of before 2021 can't.
    """
    return (
        "#!ipxe\n"
        + (f"set sk-url {url}\n" if url else "")
        + "chain --autofree --replace by-mac/${netX/mac:hexhyp}.ipxe || chain --autofree --replace unknown.ipxe"
        + " || goto again\n"
        + _again("the server does not answer", "start.ipxe")
    )


UNKNOWN = f"""\
#!ipxe
echo
echo statelesskit: nobody knows this machine. Its address is ${{netX/mac}}
echo On the server, run:
echo statelesskit client add NAME --mode diskless --mac ${{netX/mac}} --channel PROTOTYPE/CHANNEL
:again
echo It asks again every {AGAIN_S} seconds.
sleep {AGAIN_S}
chain --autofree --replace start.ipxe || goto again
"""


def to_channel(client: str, channel: str, report_url: str = "") -> str:
    """Return the script of a machine that follows a channel."""
    return _introduced(client, report_url) + _chain(f"../{channel_path(channel)}", "../start.ipxe")


def to_snapshot(client: str, snapshot: str, report_url: str = "") -> str:
    """Return the script of a machine that is held at a snapshot."""
    prototype_of(snapshot)
    return _introduced(client, report_url) + _chain(f"../../snapshots/{snapshot}/boot.ipxe", "../start.ipxe")


def of_channel(snapshot: str) -> str:
    """Return the script of a channel."""
    prototype_of(snapshot)
    return "#!ipxe\n" + _chain(f"../../../snapshots/{snapshot}/boot.ipxe", "../../start.ipxe")


def of_snapshot(snapshot: str, image: str, arguments: list[str]) -> str:
    """Return the script that boots a published snapshot, beside its files.

    Args:
        arguments: all of the boot ABI but those that only the machine's own script and this one know.
    """
    prototype_of(snapshot)
    words = " ".join(["initrd=initrd.img", *arguments, f"sk.root=ram:${{sk-here}}{image}"])
    return (
        "#!ipxe\n"
        f"isset ${{sk-url}} && set sk-here ${{sk-url}}/snapshots/{snapshot}/ || set sk-here ${{cwduri}}\n"
        "isset ${sk-here} || goto nowhere\n"
        f"kernel vmlinuz {words} BOOTIF=01-${{netX/mac:hexhyp}} ${{sk-arguments}} || goto failed\n"
        "initrd initrd.img || goto failed\n"
        "boot || goto failed\n"
        ":nowhere\n"
        "echo statelesskit: this iPXE does not know from where it came: set [publish] url in site.toml,\n"
        "echo then run statelesskit publish refresh\n"
        ":failed\n" + _again("the kernel can not be fetched or started", "../../boot/start.ipxe")
    )


def to_nothing(why: str, start: str, clients: Collection[str] = ()) -> str:
    """Return a script that says why a machine does not boot from here, and asks again.

    Args:
        start: where the first script is, seen from this one.
        clients: whose it is, if it is a machine's.
    """
    return _headed(clients) + _again(why, start)


def to_own_disk(client: str, mode: str) -> str:
    """Return the script of a machine that boots from what it has itself: the firmware goes on to that."""
    told = f"{harmless(client)} is {harmless(mode)}; it boots from its own disk or disc"
    return f"{_headed([client])}echo statelesskit: {told}\nexit\n"


def leads_to(script: str) -> str:
    """Return what a script leads to, ``channel/desktop/stable`` or ``snapshots/NAME``; "" if to neither."""
    found = _LEADS_TO.search(script)
    return found[1] if found else ""


def clients_of(script: str) -> list[str]:
    """Return whose script it is."""
    return re.findall(r"^# client (.*)$", script, re.MULTILINE)


def harmless(text: object) -> str:
    """Return text that iPXE shows as it is: what it would act on becomes a question mark."""
    return _HARMLESS.sub("?", printable(text))


def _introduced(client: str, report_url: str) -> str:
    arguments = f"sk.client={check_name(client, 'client')}" + (f" sk.report={report_url}" if report_url else "")
    return f"{_headed([client])}set sk-client {client}\nset sk-arguments {arguments}\n"


def _headed(clients: Collection[str]) -> str:
    return "#!ipxe\n" + "".join(f"# client {harmless(client)}\n" for client in clients)


def _chain(target: str, start: str) -> str:
    return f"chain --autofree --replace {target} || goto failed\n:failed\n" + _again(
        "what this machine is told to run can't be fetched", start
    )


def _again(why: str, start: str) -> str:
    return (
        f":again\necho statelesskit: {harmless(why)}; trying again in {AGAIN_S} seconds\nsleep {AGAIN_S}\n"
        f"chain --autofree --replace {start} || goto again\n"
    )
