"""Configuration for DHCP servers: what tells a machine to fetch iPXE, and iPXE to fetch its first script.

A machine asks up to twice. Its firmware says its architecture (option 93, RFC 5970) and gets iPXE of that kind: by
TFTP, or by HTTP if its vendor class (option 60) begins with ``HTTPClient``, which the answer must repeat (UEFI 2.5,
24.7). iPXE says ``iPXE`` in its user class (option 77) and gets the address of ``boot/start.ipxe``.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from statelesskit.errors import UsageError
from statelesskit.names import printable

SERVERS = ("dnsmasq", "kea", "isc", "windows")
# Name, codes of architecture by TFTP and by HTTP, the loader.
ARCHITECTURES = (
    ("bios", (0,), (), "undionly.kpxe"),
    ("efi-x64", (7, 9), (16,), "ipxe.efi"),
    ("efi-arm64", (11,), (19,), "ipxe-arm64.efi"),
)


@dataclass(frozen=True, slots=True)
class Where:
    """Where machines find what is published, as they reach it."""

    base: str
    host: str
    network: ipaddress.IPv4Network

    @property
    def start(self) -> str:
        return f"{self.base}/boot/start.ipxe"

    def loader(self, name: str) -> str:
        return f"{self.base}/boot/{name}"


def snippet(server: str, url: str, subnet: str) -> str:
    """Return a piece of configuration for one of :data:`SERVERS`.

    Args:
        url: ``http://HOST[:PORT][/FOLDER]``.
        subnet: IPv4, as ``192.0.2.0/24``.

    Raises:
        UsageError: one of these is none.
    """
    where = _where(url, subnet)
    return {"dnsmasq": _dnsmasq, "kea": _kea, "isc": _isc, "windows": _windows}[server](where)


def _where(url: str, subnet: str) -> Where:
    # It is put into four languages, none of which should have to quote it.
    if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?(/[A-Za-z0-9._~/-]*)?", url, re.ASCII):
        raise UsageError(f"{printable(url)!r} is no address, expected http://HOST[:PORT][/FOLDER]")
    try:
        network = ipaddress.IPv4Network(subnet)
    except ValueError as error:
        raise UsageError(f"{printable(subnet)!r} is no IPv4 network: {error}", hint="as 192.0.2.0/24") from None
    return Where(url.rstrip("/"), urlsplit(url).hostname or "", network)


def _dnsmasq(where: Where) -> str:
    lines = [
        "# /etc/dnsmasq.d/statelesskit.conf: beside another DHCP server, which gives out the addresses.",
        "port=0",
        f"dhcp-range={where.network.network_address},proxy,{where.network.netmask}",
        "enable-tftp",
        "tftp-root=/srv/stateless/publish/boot",
        "log-dhcp",
        "dhcp-userclass=set:ipxe,iPXE",
        "dhcp-vendorclass=set:http,HTTPClient",
    ]
    for name, tftp, http, loader in ARCHITECTURES:
        lines += [f"dhcp-match=set:{name},option:client-arch,{code}" for code in (*tftp, *http)]
        if http:
            lines.append(f"dhcp-boot=tag:http,tag:{name},tag:!ipxe,{where.loader(loader)}")
        lines.append(f"dhcp-boot=tag:!http,tag:{name},tag:!ipxe,{loader}")
    lines += [
        "dhcp-option-force=tag:http,60,HTTPClient",
        f"dhcp-boot=tag:ipxe,{where.start}",
        "# What firmware is offered beside another DHCP server:",
        'pxe-service=tag:!ipxe,x86PC,"statelesskit",undionly.kpxe',
        'pxe-service=tag:!ipxe,X86-64_EFI,"statelesskit",ipxe.efi',
        'pxe-service=tag:!ipxe,BC_EFI,"statelesskit",ipxe.efi',
        'pxe-service=tag:!ipxe,ARM64_EFI,"statelesskit",ipxe-arm64.efi',
        f'pxe-service=tag:ipxe,x86PC,"statelesskit",{where.start}',
        f'pxe-service=tag:ipxe,X86-64_EFI,"statelesskit",{where.start}',
        f'pxe-service=tag:ipxe,BC_EFI,"statelesskit",{where.start}',
        f'pxe-service=tag:ipxe,ARM64_EFI,"statelesskit",{where.start}',
    ]
    return "\n".join(lines) + "\n"


def _kea(where: Where) -> str:
    ipxe = "substring(option[77].hex, 0, 4) == 'iPXE'"
    classes: list[dict[str, object]] = [{"name": "sk-ipxe", "test": ipxe, "boot-file-name": where.start}]
    for name, tftp, http, loader in ARCHITECTURES:
        for way, codes in (("tftp", tftp), ("http", http)):
            if not codes:
                continue
            asked = " or ".join(f"option[93].hex == 0x{code:04x}" for code in codes)
            found: dict[str, object] = {"name": f"sk-{name}-{way}", "test": f"not member('sk-ipxe') and ({asked})"}
            if way == "http":
                found["boot-file-name"] = where.loader(loader)
                found["option-data"] = [{"name": "vendor-class-identifier", "data": "HTTPClient", "always-send": True}]
            else:
                found["boot-file-name"] = loader
                found["next-server"] = str(_server_address(where))
            classes.append(found)
    return json.dumps({"Dhcp4": {"client-classes": classes}}, indent=2) + "\n"


def _server_address(where: Where) -> str:
    """Return the TFTP server's address: Kea takes no names there."""
    try:
        return str(ipaddress.IPv4Address(where.host))
    except ValueError:
        raise UsageError(
            f"Kea needs the server's IPv4 address for TFTP, not the name {where.host}",
            hint="give it in --url: http://192.0.2.1:8080",
        ) from None


def _isc(where: Where) -> str:
    tests = []
    for _, tftp, http, loader in ARCHITECTURES:
        for way, codes in (("tftp", tftp), ("http", http)):
            if codes:
                asked = " or ".join(f"option sk-arch = {code}" for code in codes)
                body = (
                    f'  option vendor-class-identifier "HTTPClient";\n  filename "{where.loader(loader)}";'
                    if way == "http"
                    else f'  filename "{loader}";\n  next-server {where.host};'
                )
                tests.append(f"}} elsif {asked} {{\n{body}\n")
    return (
        "# Put this into /etc/dhcp/dhcpd.conf, at the top or into the subnet of the machines.\n"
        "option sk-arch code 93 = unsigned integer 16;\n"
        'if exists user-class and option user-class = "iPXE" {\n'
        f'  filename "{where.start}";\n' + "".join(tests) + "}\n"
    )


def _windows(where: Where) -> str:
    scope = where.network.network_address
    lines = [
        "# PowerShell, on the Windows DHCP server; as an administrator. Run it once.",
        f"$scope = '{scope}'",
        "Add-DhcpServerv4Class -Name 'iPXE' -Type User -Data 'iPXE'",
        "Add-DhcpServerv4Policy -Name 'sk-ipxe' -ScopeId $scope -Condition OR -UserClass EQ,'iPXE' -ProcessingOrder 1",
        f"Set-DhcpServerv4OptionValue -ScopeId $scope -PolicyName 'sk-ipxe' -OptionId 67 -Value '{where.start}'",
    ]
    order = 2
    for name, tftp, http, loader in ARCHITECTURES:
        for way, codes in (("PXEClient", tftp), ("HTTPClient", http)):
            for code in codes:
                policy, kind = f"sk-{name}-{way}-{code}", f"{way}:Arch:{code:05d}"
                match = f"-Condition OR -VendorClass EQ,'{policy}*'"
                file = where.loader(loader) if way == "HTTPClient" else loader
                lines += [
                    f"Add-DhcpServerv4Class -Name '{policy}' -Type Vendor -Data '{kind}'",
                    f"Add-DhcpServerv4Policy -Name '{policy}' -ScopeId $scope -ProcessingOrder {order} {match}",
                    f"Set-DhcpServerv4OptionValue -ScopeId $scope -PolicyName '{policy}' -OptionId 67 -Value '{file}'",
                ]
                option, value = (60, "HTTPClient") if way == "HTTPClient" else (66, where.host)
                if option == 60:  # Windows knows no option 60 until it is defined
                    lines.append(
                        "if (-not (Get-DhcpServerv4OptionDefinition -OptionId 60 -ErrorAction SilentlyContinue)) "
                        "{ Add-DhcpServerv4OptionDefinition -OptionId 60 -Name 'ClassId' -Type String }"
                    )
                lines.append(
                    f"Set-DhcpServerv4OptionValue -ScopeId $scope -PolicyName '{policy}'"
                    f" -OptionId {option} -Value '{value}'"
                )
                order += 1
    return "\r\n".join(lines) + "\r\n"
