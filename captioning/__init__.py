"""The parts of the captioning project: one noun per module, none with a command line, none importing a script."""
