"""Questions about pictures, methods and budgets: suites, answers, paired differences, reports."""
