"""What an item of the run's state is: adapters by kind of object, and the random number generators.

The only layer that touches objects of torch or of another framework.
"""
