"""What is measured: one folder a workload, and the worker that runs it beside exactly one framework."""
