"""WatchEntities: the latest values of entities, then every change of them."""
