"""What each verb of the command line does.

A verb has two modules: `<module>_flags.py` with its flags, which imports nothing heavy, so that --help and a
mistyped flag are answered at once, and one that runs it and imports what it needs, torch and all.
"""
