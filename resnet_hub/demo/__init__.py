"""A page on which people try a model: on this machine, or as a Space on the Hub."""
