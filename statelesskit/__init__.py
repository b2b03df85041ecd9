"""Run fleets of stateless Linux machines from prototypes, snapshots and an LDAP directory."""

__version__ = "0.1.0"
