"""Find the domain without a credential."""
