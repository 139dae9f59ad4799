"""What runs on every release of pipecat."""
