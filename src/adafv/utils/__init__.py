"""What several rooms share: files, checks of arguments, a clock, intervals."""
