"""The app and the command line: they render a story and send commands."""
