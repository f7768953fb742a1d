"""What each verb of the command line does.

`main.py` has the table of verbs and `flags.py` their flags. Neither imports anything heavy, so that --help
and a mistyped flag are answered at once. The module of a verb imports what it needs, torch and all.
"""
