"""Running compiled components: targets, weights, executables, freshness."""
