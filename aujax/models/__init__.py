"""Networks with named activations, and the way weights enter them."""
