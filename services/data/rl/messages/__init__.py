"""What the state machine of an RL run hears (events) and says (commands).

Numbers that all of them share. Step k trains batch k, both from 0. Version v of the weights is that after v
optimizer steps: batch k makes version k + 1 of version k. A batch has places (`group`, from 0), each with a group of
rollouts of one prompt. Prompt p is the p-th that the run draws; `prompts_order` says which row that is. An attempt of
a place (from 0) is one try to have it sampled or scored; a later attempt makes earlier ones void.

Commands that name a `seq` go into the training run's log under that number and are submitted in the order in
which they are said. All others stand for themselves and may run together.

How a driver keeps its word: it commits the state that follows from an event, then publishes the commands that were
said with it. Whoever begins from a committed state publishes `machine.outstanding(state)` first: a command that was
published before is the same again, with the same id, and one that the last driver did not come to is not lost.
Nothing is ever published that no committed state has decided, so a number of the log never has two meanings.
Several events may be folded into one commit. Every command but `Finish` is answered by one event, or by `Failed`.
"""

from services.data.rl.messages.commands import (
    Await,
    Command,
    Create,
    Evaluate,
    Finish,
    Probe,
    Publish,
    Report,
    Sample,
    Save,
    Score,
    Train,
)
from services.data.rl.messages.events import (
    Created,
    Evaluated,
    Event,
    Failed,
    Lost,
    Overdue,
    Probed,
    Published,
    Reported,
    Sampled,
    Saved,
    Scored,
    TimeUp,
    Trained,
    Wanted,
)
from services.data.rl.messages.word import Phase, Word

__all__ = [
    "Await",
    "Command",
    "Create",
    "Created",
    "Evaluate",
    "Evaluated",
    "Event",
    "Failed",
    "Finish",
    "Lost",
    "Overdue",
    "Phase",
    "Probe",
    "Probed",
    "Publish",
    "Published",
    "Report",
    "Reported",
    "Sample",
    "Sampled",
    "Save",
    "Saved",
    "Score",
    "Scored",
    "TimeUp",
    "Train",
    "Trained",
    "Wanted",
    "Word",
]
