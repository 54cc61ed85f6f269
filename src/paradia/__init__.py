"""From raw MRI phase to maps of magnetic susceptibility."""

__version__ = "0.1.0.dev0"
