"""What values are: byte counts (sizes.py) or tensors with autograd (tensors.py)."""
