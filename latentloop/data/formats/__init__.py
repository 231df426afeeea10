"""One module for each layout of interaction logs; each turns a source into a `Log` of arrow columns."""
