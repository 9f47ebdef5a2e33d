"""Sessions and templates: it decides about their life and orders the other services to act."""
