"""What the site's policy lets a run do when nobody is looking."""

from __future__ import annotations

from statelesskit.config import Site


def unattended(site: Site, clients: int, snapshot: str = "", state: str = "") -> str:
    """Say why nobody may have so many clients run something else without a person looking, or "".

    Args:
        snapshot, state: what they are told to run, if it is one snapshot.
    """
    if snapshot and state not in site.auto_states:
        allowed = " or ".join(site.auto_states) or "no state"
        return f"{snapshot} is {state}; the site's policy lets a run push on its own only what is {allowed}"
    if clients > site.auto_max_clients:
        return f"{clients} clients would change; the site's policy allows {site.auto_max_clients} on its own"
    return ""
