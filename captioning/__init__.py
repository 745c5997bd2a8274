"""The parts of the project, one noun per module: none has a command line, none imports a script."""
