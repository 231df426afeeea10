"""A run on disk: what it keeps, who may write it, where it goes on, and what it reports."""
