"""What the room stands on: shapes, what is computed once and kept, processes made by fork."""
