"""The command line: parse, plan, perform and print. One file a command, and every running service a command of its own.

A command receives its streams and its environment in a `Session` and never reaches for `sys` or `os.environ`. Nothing
here imports the RPC library: a start has to be done before a person notices it, so JSON over plain sockets has to do.
"""
