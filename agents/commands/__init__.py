"""What a person at a terminal can do, one module a command."""
