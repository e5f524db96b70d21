"""The record of what happened, in MLflow: the only package that imports mlflow.

`store` opens a store, `live` logs a training run as it happens, in a process of its own, `record` completes a run with
a `content`, `runs` finds and reproduces one, `logged_model` and `registry` are about its model. Everything goes through
MlflowClient by run id: re-opening a run would set it RUNNING again.

It decides no result: with CHARLM_TRACKING=off, or with the store lost, every file is the same.
"""
