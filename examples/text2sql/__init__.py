"""Text-to-SQL by reinforcement learning: a small model learns the dialect that its database executes."""
