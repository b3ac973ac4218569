"""Fine-tuning: a small head on a frozen encoder of the project, trained by a job and registered with what it gained.

Owns: what may be asked (`service.FineTunes`), and the job that does it.
Refuses: to train in the server's process, and a head without its number beside the base model's on rows that
neither was fitted to.
"""
