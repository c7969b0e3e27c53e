"""The laptop's stand-in for Kubernetes: a supervisor that starts, watches and ends the processes of the stack."""
