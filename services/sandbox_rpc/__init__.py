"""How our services speak gRPC: errors, auth, telemetry, server, channel; nothing else."""
