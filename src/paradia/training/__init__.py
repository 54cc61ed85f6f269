"""Training the networks on simulated heads."""

NETWORKS = {
    "varnet": "Train the network that proposes susceptibility, in turn with the local field.",
    "bgnet": "Train the network that mends the local field.",
    "sepnet": "Train the network that tells para- from diamagnetic sources.",
}
"""What `paradia train` can train, known without importing any of it; the same names as `tasks.TASKS`."""
