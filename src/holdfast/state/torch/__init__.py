"""Adapters for PyTorch. Imported only once the user's own code has imported torch."""
