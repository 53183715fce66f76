"""Device keys, sealing and signatures."""
