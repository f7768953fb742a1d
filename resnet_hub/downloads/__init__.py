"""Files from the Hub, into its cache."""
