"""This host's processes, folders and environments: what the supervisor and the local runtime run services with."""
