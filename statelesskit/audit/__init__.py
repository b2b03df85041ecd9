"""The evidence of what was done: a chained event log, files, a signed statement, and the check of all of it.

A record's folder holds ``events.jsonl``, the files that belong to the run, and, once it has ended,
``statement.dsse.json``. Who holds the public key can verify it anywhere, without the site.
"""
