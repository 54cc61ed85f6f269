"""Training the networks on simulated heads."""

NETWORKS = {
    "varnet": "Train the network that proposes susceptibility, in turn with the local field.",
    "bgnet": "Train the network that mends the local field.",
    "sepnet": "Train the network that tells para- from diamagnetic sources.",
}
"""What `paradia train` can train, known without importing any of it; the same names as `tasks.TASKS`."""

SYSTEMS = {"nextqsm": ("bgnet", "varnet")}
"""Networks that a method asks in turn and that `paradia train` trains one after the other."""

TOGETHER = {
    "nextqsm": "Train both networks of nextqsm, bgnet and then varnet, each in a folder of its own name in the output.",
}
"""What the help of each of these says."""

ONWARD = (
    "Run it again to go on where it stopped, also with more steps. The folder of the volumes may still be growing. In the output are the "
    "checkpoint, the log ``log.csv``, its picture ``curves.png``, and the running average of the weights ``average.safetensors``; at the "
    "end also the calibrated weights and the model card, which ``paradia train release`` puts in place."
)
"""What the help of each of them says besides."""
