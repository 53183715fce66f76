"""Registered PowerShell scripts and their contracts."""
