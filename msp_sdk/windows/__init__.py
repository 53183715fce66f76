"""Run a registered script on a Windows host."""
