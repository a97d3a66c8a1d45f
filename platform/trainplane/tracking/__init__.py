"""What was run, where people browse it: runs in MLflow, recorded without ever making training wait.

run      who a run is in MLflow            tracker  what the loop records through
spool    records on the local disk         drain    from there to MLflow, once
flusher  the process that does it          client   the one door to MLflow
gallery  pictures to look at               lineage  facts that say what a run was made from
"""
