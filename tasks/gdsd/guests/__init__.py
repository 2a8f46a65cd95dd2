"""What runs inside the sandbox: standard library only, and no import of the project beyond this folder."""
