"""Functions and modules of the user's: what they hold, and whose code they are."""
