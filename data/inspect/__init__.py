"""Looking at datasets: what they hold, and whether their cameras are right."""
