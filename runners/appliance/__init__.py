"""The appliance daemon."""
