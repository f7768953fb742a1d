"""What was measured, as numbers, figures and a page."""
