"""Ray places the run, restarts what dies, and the command line lives here."""
