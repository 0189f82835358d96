"""The parts of `benchmarks/speed.py`: what is trained, who saves it, and how both are measured."""
