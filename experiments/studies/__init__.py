"""Scripts behind the tables of the docs, one a file."""
