"""One file a command, each with `SUMMARY`, `add_arguments(parser)` and `run(args, session) -> exit code`."""
