"""The command line of training: ``python -m train COMMAND``."""
