"""Everything that exists because of a version or a foreign API."""
