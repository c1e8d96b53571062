"""What a person writes, read and checked: points, text, corners, derivatives by time."""
