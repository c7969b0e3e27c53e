"""RL runs that need no client: prompts out, groups of scored rollouts in, steps of training between.

In reading order:

1. `messages`       what the machine hears (events) and says (commands)
2. `state`          all that a run remembers
3. `machine`        the pure function between them: (state, event) -> (state, commands)
4. `algorithms`     from the rewards of a group to advantages, one file each
5. `schedule`       the learning rate of a step; `prompts_order`, the row of a prompt number
"""
