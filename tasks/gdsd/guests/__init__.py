"""Scripts that run in processes of their own and talk to the pipeline through pipes."""
