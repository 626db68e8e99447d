"""NATS: state that survives, by JetStream; and the server itself as a child process. The one room that knows it."""
