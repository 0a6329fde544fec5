"""The agent of one virtual platform: quotes, reserves, runs and follows."""
