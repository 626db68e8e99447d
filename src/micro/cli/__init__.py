"""The command line: parse, plan, perform and print. Starts fast: what a command does not need, it does not import."""
