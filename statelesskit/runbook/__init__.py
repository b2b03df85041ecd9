"""Runbooks: notebooks around an action, run by papermill or opened by a person.

``find`` knows which there are, ``parameters`` checks what they are given, ``launch`` runs one, ``cells`` is
what the cells of a runbook call.
"""
