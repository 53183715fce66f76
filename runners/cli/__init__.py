"""The command line ``msp``."""
