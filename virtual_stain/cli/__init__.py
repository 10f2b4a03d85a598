"""The command line: parse, load, call one function, print, map errors to exit codes."""
