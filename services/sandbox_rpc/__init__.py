"""How our services speak gRPC: errors, auth, telemetry, server, channel. Nothing else lives here."""
