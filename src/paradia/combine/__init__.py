"""Methods that bring the images of several coils together."""
