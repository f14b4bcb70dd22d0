//! The agent's own configuration: typed, checked, free of the command line.
