"""Problems that come with `ndae`, one a file."""
