"""Models on disk: weights, settings and ids, from which nothing is unpickled."""
