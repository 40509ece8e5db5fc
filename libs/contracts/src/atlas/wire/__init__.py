"""How both ends of a connection prove who they are; what services and clients share of it."""
