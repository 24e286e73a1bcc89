"""The forms in which a data set may come, each read into rows."""
