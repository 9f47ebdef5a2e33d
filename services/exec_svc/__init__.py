"""Executions: accepts them, hands them to executors, keeps what happened, tells who asks."""
