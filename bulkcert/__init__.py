"""Bulk operations on device certificates."""
