"""The hotcache service: latest hot values of entities, through a cache that is provably fresh."""
