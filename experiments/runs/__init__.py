"""One configuration, its run and its record; a study of many."""
