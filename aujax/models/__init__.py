"""Networks with named activations, and conversion of PyTorch weights."""
