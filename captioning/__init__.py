"""The parts of the project, one noun per module: none has a command line, none imports a script."""

__version__ = "1.0.0"  # of the whole project; checkpoints and reports carry it, CHANGELOG.md tells what it brought
