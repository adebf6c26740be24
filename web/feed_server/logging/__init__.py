"""The program's log: the format of its lines, and the output to standard error."""
