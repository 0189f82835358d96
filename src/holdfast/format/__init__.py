"""Format 1: manifest, safetensors layout, digests and plain values as JSON. Pure functions, no I/O."""
