"""Benches: ratios side by side in one run. They print; they assert nothing about time."""
