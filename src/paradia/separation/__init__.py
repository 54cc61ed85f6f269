"""Separation: paramagnetic from diamagnetic sources."""
