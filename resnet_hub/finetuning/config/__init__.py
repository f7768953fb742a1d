"""What was asked for: options, their checks, files, flags, and the rule that decides what was left open."""
