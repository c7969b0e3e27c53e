"""Graders that run code in the sandbox.

rows.py      tests as a row of the data set holds them
place.py     where guests run, and what holds them there
trial.py     one program on one test
python.py    the runner of `python`: a completion's program on its tests
function.py  the runner of `function`: a user's own reward function
source.py    what can be known of such a function without running it
register.py  trying one out, and keeping it
"""
