"""What runs record, to the last bit, as it was before."""
