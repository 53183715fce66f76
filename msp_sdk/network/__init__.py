"""Resolver, probing, pins, the logon ledger, threads."""
