"""The gateway: one address that speaks many protocols.

Owns: the chain that every request passes (`chain.py`) and one package per door. A door turns its
protocol's bytes into one service call and the answer back; it decides nothing.
Refuses: doors that import one another, and rules about what anybody may do (those are identity's).
"""
