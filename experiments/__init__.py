"""Problems and studies: data, configurations, tables, figures and the command line `ndae`."""
