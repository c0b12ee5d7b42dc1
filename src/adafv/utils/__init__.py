"""What several rooms share: files, records of runs, checks of arguments, a clock, intervals."""
