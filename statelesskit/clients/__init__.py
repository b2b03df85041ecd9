"""Clients in bulk: a table of them read, judged, entered and taken back; who asked to boot and is unknown."""
