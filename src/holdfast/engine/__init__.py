"""How state becomes a checkpoint and back: plan, arena, snapshot, writer process, catalog, read."""
