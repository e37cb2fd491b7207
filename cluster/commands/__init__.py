"""One file per group of commands; heavy imports stay inside the functions, so that help is quick."""
