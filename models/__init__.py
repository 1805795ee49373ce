"""Score: from a customer's features to probabilities, and why. Pure: no I/O."""
