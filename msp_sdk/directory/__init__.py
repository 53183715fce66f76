"""Speak LDAP."""
