"""What a data set means: its splits, columns, labels and images."""
