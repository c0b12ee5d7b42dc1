"""What every call runs through, in the order of the data: prompt, encode, select, rebuild."""
