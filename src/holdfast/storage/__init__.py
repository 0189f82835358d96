"""Bytes in and out, and nothing else: where checkpoints are kept."""
