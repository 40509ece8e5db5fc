"""How often each attribute is asked for: counted in memory, told to the primary now and then."""
