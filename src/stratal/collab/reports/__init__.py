"""Reports: Markdown of a project in which charts, tables and lineage stand, and public links to them.

Owns reports and their links. Refuses HTML and images in a report, and to show by a link what was not in the report
when it was published. What a block shows is asked of the rooms that own it (`service.Evaluator`), with the eyes of
whoever looks. Others use `service.Reports`.
"""
