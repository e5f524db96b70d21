"""The record of what happened, in MLflow: the only package that imports mlflow.

`store` opens a store, `live` logs a training while it runs, `record` makes a run complete afterwards, `runs` finds one
again, `model` and `registry` are its model. Everything goes through MlflowClient by run id: re-opening a run would set
it RUNNING again.

It decides no result: with CHARLM_TRACKING=off, or with the store lost, every file comes out the same.
"""
