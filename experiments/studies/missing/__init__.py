"""Problems in which a function is missing from known equations, by field, and how they are learned and measured."""
