"""Launch of a search: checks, placement of workers, first trials, the run."""
