"""Launchers that an engine started, on one host or many: where they meet, and how they follow the one that leads."""
