"""Runbooks that begin by themselves, by systemd's timers or by cron.

``entry`` is what the site keeps of each schedule, ``units`` what systemd is given, ``actions`` makes and removes them,
``running`` runs one, and tells of one that failed.
"""
