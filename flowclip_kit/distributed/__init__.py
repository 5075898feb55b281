"""Worker processes, Ray, and ranks of torchrun or srun: whatever makes the runs, behind one `map`."""

ENGINES = ("local", "ray")
