"""Vector fields of neural DAEs."""
