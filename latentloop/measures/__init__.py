"""What an evaluation comes to: metrics with their protocol, tables, and whether a difference is more than chance."""
