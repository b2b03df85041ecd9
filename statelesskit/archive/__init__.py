"""Tar archives and OCI image layouts: written from a manifest, and read back into one without unpacking."""
