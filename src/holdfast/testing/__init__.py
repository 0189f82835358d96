"""For those who test against holdfast, or who write a storage for it."""
