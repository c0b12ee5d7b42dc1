"""Where adafv plugs into other people's programs; each module imports the program it is for."""
