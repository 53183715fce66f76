"""Read a domain's computers with one credential."""
