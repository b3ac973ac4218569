"""Sweeps: the search for parameters with which a script does best.

Owns: the study (its space, its trials and what each came to), when a trial is begun, ended early or the
search is over. A trial is a job of compute and a run of tracking; both are found from here and stay what
they are.
Refuses: to know how the next parameters are found (`advisor.Advisor`), and to keep a study anywhere but in
the platform's own rows: whatever dies, the search goes on from them.

`service.Sweeps` is what other rooms use; `conductor.Conductor` carries the searches on.
"""
