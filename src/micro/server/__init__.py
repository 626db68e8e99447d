"""The composition root: settings, backends by name, the processes of a server and their supervisor."""
