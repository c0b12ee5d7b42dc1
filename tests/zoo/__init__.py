"""Tiny random models: real classes with their own processors; nothing is downloaded."""
