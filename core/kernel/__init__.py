"""What every aggregate stands on: commits, deciders, the registry, the codec, errors, ports and the command bus."""
