"""Rigid registration of images to each other."""
