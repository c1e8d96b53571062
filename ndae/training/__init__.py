"""`fit`, and the files that it writes."""
