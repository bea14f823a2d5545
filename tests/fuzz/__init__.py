"""Random graphs, files and questions against oracles that share no code with the library.

`python -m tests.fuzz --seconds 3600 --seed 0 --log fuzz.log` draws until the time is up, prints how
many claims of each kind were answered, refused and violated, and exits with 1 if any was violated.
`python -m tests.fuzz --only classifier --seed 17 --count 1` repeats one case.

`models` draws models that compute themselves in NumPy too, `searches` looks for counterexamples,
and `claims`, `exports`, `questions`, `statements`, `files` and `properties` hold what the library
says beside what was found.
"""
