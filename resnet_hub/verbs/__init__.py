"""What each verb of the command line does; its arguments import nothing heavy, for a fast --help."""
