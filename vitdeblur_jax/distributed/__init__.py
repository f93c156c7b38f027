"""The device mesh, sharding rules and distributed processes."""
