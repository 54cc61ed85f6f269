"""Methods that find the voxels that count."""
