"""Loops over ports: recorder, projector, scheduler, agent host."""
