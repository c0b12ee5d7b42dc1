"""Answering for others: many questions from a file."""
