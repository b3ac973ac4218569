"""Models: logged ones, and the registry that names versions of them.

A registered version *pins* its bytes when it is made: the list of its files with their checksums, the
run, the job and the formats its weights are kept in. What is later logged into the run changes nothing.
A version may have *forms* (`stratal.ai.models.forms`): other files, converted from its own, that answer the same.
`stratal.ai.models.registry.Models` is the service that other rooms use.
"""
