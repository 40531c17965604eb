"""From a search file to a finished study: checks, placement of workers, first trials, the run."""
