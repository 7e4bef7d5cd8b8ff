"""Bundles as one signed file, and where they are installed."""
