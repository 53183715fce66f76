"""Bring the agent to hosts: plan what would be done, then do it, one outcome a host."""

from msp_sdk.deployment.deployer import AgentDeployer, DeployOptions
from msp_sdk.deployment.package import load_package, render_config

__all__ = ["AgentDeployer", "DeployOptions", "load_package", "render_config"]
