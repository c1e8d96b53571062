"""A system as data: as written, reduced, implicit; and the functions generated from it."""
