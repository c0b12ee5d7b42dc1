"""Images with questions, known to the last box: suites drawn by code, and a public one."""
