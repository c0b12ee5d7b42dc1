"""The methods in plain loops, close to their papers: what the fast implementations are held to."""
