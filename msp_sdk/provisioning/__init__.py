"""Claim a provision code, and keep what it gave."""

from msp_sdk.provisioning.client import ProvisioningClient
from msp_sdk.provisioning.config import DEFAULT_PATH, key_provider, load_config, save_config
from msp_sdk.provisioning.identity import read_identity

__all__ = ["DEFAULT_PATH", "ProvisioningClient", "key_provider", "load_config", "read_identity", "save_config"]
