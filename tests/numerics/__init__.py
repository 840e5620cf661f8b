"""Byte counts and tensors, held against torch and against each other."""
