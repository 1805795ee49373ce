"""A shop's own history replayed: what churnwatch would have said, and how right it would have been."""
