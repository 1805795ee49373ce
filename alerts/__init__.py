"""Decide: from scores to episodes, reasons, actions and messages. Pure: no I/O."""
