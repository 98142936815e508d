"""Adapters to frameworks. Each module is imported by whoever uses that framework."""
