"""Blob stores: values by their hash."""
