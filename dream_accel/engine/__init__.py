"""The loop: refresh the real batch, match, move the pixels, train the network.

Nothing in here asks the device for a value, except once per outer iteration for the log.
"""
