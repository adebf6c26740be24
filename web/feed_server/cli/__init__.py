"""The command line, a module a command. Typer and Rich are imported here alone."""
