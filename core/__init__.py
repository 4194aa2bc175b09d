"""The domain: pure decisions, folds and the loops that drive them, written against ports."""
