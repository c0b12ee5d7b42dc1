"""Questions about images, methods and budgets: suites, answers, paired differences, reports."""
