"""Ready solutions: what there is to run, and how it went.

Owns: reading ``solution.toml`` (`manifest`), where solutions lie (`catalogue`), and what the newest run of one
left in its project (`results`).
Refuses: running one. A solution is run from the command line through public doors only, as any user could;
nothing in the server's process knows more of a run than the objects it left.
"""
