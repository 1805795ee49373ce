"""One customer: what events say of them, and what that is worth at an instant. Pure: no I/O."""
