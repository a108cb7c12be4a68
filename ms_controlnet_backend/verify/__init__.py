"""``ms-controlnet verify``: what this machine's device computes, against torch, as a report to send back from a machine
that nobody else has.

``command`` reads the options and writes the files. ``checks`` are made in this process, ``worker`` makes them in a
process of its own and says what it is at, ``supervisor`` starts workers, one after another where one dies or hangs, and
``advice`` makes of what was found what to do.
"""
