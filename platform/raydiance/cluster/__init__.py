"""Ray: sessions, parallel tasks, the Ray Train shell round training/, the main() of every job."""

__all__: list[str] = []
