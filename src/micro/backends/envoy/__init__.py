"""The data plane on Envoy: what it is started with, what it is told, and how it is asked."""
