"""What runs in processes of its own: inside the sandbox with the standard library alone, and beside math-verify."""
