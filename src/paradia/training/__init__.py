"""Training the networks on simulated heads."""
