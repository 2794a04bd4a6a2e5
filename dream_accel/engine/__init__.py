"""The distillation loop: refreshes the real batch, matches, updates the pixels and trains the network.

The loop reads a value from the device only once per outer iteration, for the log.
"""
