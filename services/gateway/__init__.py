"""One URL for everything: the HTTP edges of the services, plus sessions, futures and the client's configuration."""
