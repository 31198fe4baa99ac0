"""Files in, files out: rows, data sets, relations, and atomic writes. Knows nothing of tasks or models."""
