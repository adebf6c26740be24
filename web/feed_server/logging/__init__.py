"""How the program's log is written: its lines, and standard error."""
