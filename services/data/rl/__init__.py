"""RL runs that need no client: prompts out, groups of scored rollouts in, steps of training between.

In reading order:

1. `messages`       what the machine hears (events) and says (commands)
2. `state`          all that a run remembers
3. `machine`        the pure function between them: (state, event) -> (state, commands); `due` is what it says next,
                    of `places` to be sampled and scored, `steps` to be trained, `measures` and the `account` of a step
4. `algorithms`     from the rewards of a group to advantages, one file each
5. `schedule`       the learning rate of a step; `prompts_order`, the row of a prompt number
6. `store`          what is kept of a run: state, owner's word, rows of metrics
7. `driver`         performs, hears, commits; `drive`, the command that has it done, is queued by `queue`
8. `perform`        a command becomes its event: `publish` (to the trainer), `ask` (samplers and graders), `results`
                    (what they answered), `probe` (sampler beside trainer), `report` (what the world hears) and
                    `leftovers` (what nobody needs any more), each by the `ids` of a run
9. `prompts`        which prompt a command is about, from `rows` and `text`, its tokens
10. `batch`         scored rollouts as datums; `metrics` and `timing`, what is known of a step; `alarms`, whether
                    sampler and trainer agree
11. `api`           the HTTP edge; `create` checks a spec and fixes it (`functions`), `info` says where a run stands,
                    `news` waits for what is new of it
12. `triggers`      sees facts and does what follows of them, a run or a `webhook`; `fires` is what one event does to
                    one trigger, `triggers_api` their HTTP edge
"""
