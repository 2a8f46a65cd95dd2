"""Rounds that follow each other in memory: rollouts, rewards and updates of one policy that stays loaded."""
