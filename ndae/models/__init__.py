"""What is trained: neural DAEs over depth, neural motions in time, presets."""
