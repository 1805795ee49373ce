"""What travels: events in, messages out, and the topics they travel on. Pure: no I/O."""
